"""LaunchDarkly's Python SDK with its DynamoDB integration.

dynamodb.py fill URI TABLE PREFIX STREAM      fills the store from a LaunchDarkly at STREAM
dynamodb.py evaluate URI TABLE PREFIX FLAG N  prints the variations of N contexts, only from the store
"""

import json
import sys

from ldclient import Context, LDClient
from ldclient.config import Config
from ldclient.integrations import DynamoDB


def main(mode: str, uri: str, table: str, prefix: str, *rest: str) -> None:
    store = DynamoDB.new_feature_store(
        table,
        prefix=prefix or None,
        dynamodb_opts={
            "endpoint_url": uri,
            "region_name": "eu-central-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        },
    )
    common = {"feature_store": store, "send_events": False, "diagnostic_opt_out": True}
    if mode == "fill":
        (stream,) = rest
        client = LDClient(Config("sdk-test", stream_uri=stream, base_uri=stream, events_uri=stream, **common), 10)
        if not client.is_initialized():
            sys.exit("the client was not initialized")
    else:
        flag, count = rest
        client = LDClient(Config("sdk-test", use_ldd=True, **common))
        contexts = (Context.create(f"192.0.2.{n}") for n in range(int(count)))
        print(json.dumps([client.variation(flag, context, "default") for context in contexts]))
    client.close()


main(*sys.argv[1:])
