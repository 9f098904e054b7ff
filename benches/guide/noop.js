// The floor of the managed Node.js runtime: the same redirect for everyone.
exports.handler = async () => ({
  status: "302",
  headers: { location: [{ key: "Location", value: "/site/index.html" }] },
});
