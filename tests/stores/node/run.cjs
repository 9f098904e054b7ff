// Uses a store as programs with LaunchDarkly's SDK do:
//   fill STREAM      fills it from a LaunchDarkly at STREAM
//   evaluate FLAG N  prints the variations of N contexts, only from the store
const quiet = { error: console.error, warn() {}, info() {}, debug() {} };

async function main(init, featureStore, context, mode, rest) {
  const options = { featureStore, sendEvents: false, diagnosticOptOut: true, logger: quiet };
  if (mode === 'fill') {
    const [uri] = rest;
    const client = init('sdk-test', { ...options, streamUri: uri, baseUri: uri, eventsUri: uri });
    await client.waitForInitialization({ timeout: 10 });
    client.close();
  } else {
    const [flag, count] = rest;
    const client = init('sdk-test', { ...options, useLdd: true });
    await client.waitForInitialization({ timeout: 10 });
    const variations = [];
    for (let n = 0; n < Number(count); n += 1) {
      variations.push(await client.variation(flag, context(`192.0.2.${n}`), 'default'));
    }
    console.log(JSON.stringify(variations));
    client.close();
  }
}

// `context` makes the SDK's context, or user, for a key.
exports.run = ({ init, featureStore, context, mode, rest }) => {
  main(init, featureStore, context, mode, rest).then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
};
