// LaunchDarkly's Node SDK with its Redis integration: redis.cjs MODE URL PREFIX ..., see run.cjs.
const { init } = require('@launchdarkly/node-server-sdk');
const { RedisFeatureStore } = require('@launchdarkly/node-server-sdk-redis');
const { run } = require('./run.cjs');

const [mode, url, prefix, ...rest] = process.argv.slice(2);
const { hostname: host, port } = new URL(url);
const featureStore = RedisFeatureStore({ redisOpts: { host, port: Number(port) }, prefix, cacheTTL: 0 });
run({ init, featureStore, context: (key) => ({ kind: 'user', key }), mode, rest });
