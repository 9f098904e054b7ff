// LaunchDarkly's Node SDK with its Redis integration.
//   redis.cjs fill URL PREFIX STREAM     fills the store from a LaunchDarkly at STREAM
//   redis.cjs evaluate URL PREFIX FLAG N prints the variations of N contexts, from the store alone
const { init } = require('@launchdarkly/node-server-sdk');
const { RedisFeatureStore } = require('@launchdarkly/node-server-sdk-redis');

const [mode, url, prefix, ...rest] = process.argv.slice(2);
const quiet = { error: console.error, warn() {}, info() {}, debug() {} };

async function main() {
  const { hostname: host, port } = new URL(url);
  const options = {
    featureStore: RedisFeatureStore({ redisOpts: { host, port: Number(port) }, prefix, cacheTTL: 0 }),
    sendEvents: false,
    diagnosticOptOut: true,
    logger: quiet,
  };
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
      variations.push(await client.variation(flag, { kind: 'user', key: `192.0.2.${n}` }, 'default'));
    }
    console.log(JSON.stringify(variations));
    client.close();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
