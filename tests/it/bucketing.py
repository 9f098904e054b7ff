"""Expected variations of the offline flag, by LaunchDarkly's published formula, without the SDK.

https://launchdarkly.com/docs/sdk/concepts/flag-evaluation-rules#rollouts: the first 15 hexadecimal digits of
SHA-1("flagKey.salt.contextKey"), divided by 0xFFFFFFFFFFFFFFF, compared with the cumulated weights.

Prints one line per address: the address and its variation.
"""

import hashlib
import ipaddress
import json
import pathlib
import random

FLAGS = pathlib.Path(__file__).parents[2] / "src" / "flags" / "offline-flags.json"


def variation(flag, key):
    digest = hashlib.sha1(f"{flag['key']}.{flag['salt']}.{key}".encode()).hexdigest()
    bucket = int(digest[:15], 16) / 0xFFFFFFFFFFFFFFF
    edge = 0
    for choice in flag["fallthrough"]["rollout"]["variations"]:
        edge += choice["weight"] / 100_000
        if bucket < edge:
            break
    return flag["variations"][choice["variation"]]


def main():
    flag = json.loads(FLAGS.read_text())["flags"]["rebrand"]
    dice = random.Random(20260101)
    addresses = [str(ipaddress.IPv4Address(dice.getrandbits(32))) for _ in range(1_500)]
    addresses += [str(ipaddress.IPv6Address(dice.getrandbits(128))) for _ in range(500)]
    for address in addresses:
        print(address, json.dumps(variation(flag, address)))


if __name__ == "__main__":
    main()
