// LaunchDarkly's guide "Using LaunchDarkly with AWS Lambda" with the current SDK: create the client at module scope,
// wait until it has the flags, evaluate one flag, redirect.
// https://launchdarkly.com/docs/guides/infrastructure/aws-lambda
const LaunchDarkly = require("@launchdarkly/node-server-sdk");

// The addresses are LaunchDarkly's own, unless the bench sets its stand-in's.
const client = LaunchDarkly.init(process.env.LAUNCHDARKLY_SDK_KEY, {
  baseUri: process.env.LAUNCHDARKLY_BASE_URI,
  streamUri: process.env.LAUNCHDARKLY_STREAM_URI,
  eventsUri: process.env.LAUNCHDARKLY_EVENTS_URI,
});

exports.handler = async (event) => {
  const request = event.Records[0].cf.request;
  await client.waitForInitialization({ timeout: 5 });
  const isBeta = await client.variation("rebrand", { kind: "user", key: request.clientIp }, false);
  return {
    status: "302",
    headers: {
      location: [{ key: "Location", value: (isBeta ? "/site/beta" : "/site") + request.uri }],
      "cache-control": [{ key: "Cache-Control", value: "no-store" }],
    },
  };
};
