// LaunchDarkly's Node SDK with its DynamoDB integration: dynamodb.cjs MODE URI TABLE PREFIX ..., see run.cjs. The
// newest integration on npm is for version 6 of the SDK, which has users instead of contexts.
const { init } = require('launchdarkly-node-server-sdk');
const { DynamoDBFeatureStore } = require('launchdarkly-node-server-sdk-dynamodb');
const { run } = require('./run.cjs');

const [mode, endpoint, table, prefix, ...rest] = process.argv.slice(2);
const clientOptions = { endpoint, region: 'eu-central-1', accessKeyId: 'test', secretAccessKey: 'test' };
const featureStore = DynamoDBFeatureStore(table, { clientOptions, prefix, cacheTTL: 0 });
run({ init, featureStore, context: (key) => ({ key }), mode, rest });
