"""A CloudFront distribution: its associations with the redirect function, and how far a change of it has spread."""

import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from aws import POLL_SECONDS, client, code_of
from terminal import say, waiting

# How often an update is tried again when someone else changed the distribution between reading and writing it.
TRIES = 3

# A wait ends when CloudFront says so, or when a person interrupts it.
UNTIL_DONE = {"Delay": POLL_SECONDS, "MaxAttempts": 10_000}


class Distribution:
    def __init__(self, distribution_id: str) -> None:
        self.id = distribution_id

    def is_attached(self, function: str) -> bool:
        config = client("cloudfront").get_distribution_config(Id=self.id)["DistributionConfig"]
        return any(of_function(behavior, function) for behavior in behaviors(config))

    def detach(self, function: str) -> int:
        """Takes the function out of every behavior, straight through CloudFront, in whatever state a stack is.

        Where the distribution has a CloudFront Function on /site/*, that one takes its place: it sends everyone to the
        current site. Returns the number of behaviors that changed.
        """
        for attempt in range(TRIES):
            found = client("cloudfront").get_distribution_config(Id=self.id)
            config = found["DistributionConfig"]
            stand_in = stand_in_of(config)
            changed = 0
            for behavior in behaviors(config):
                ours = of_function(behavior, function)
                if ours:
                    others = [entry for entry in associations(behavior) if entry not in ours]
                    behavior["LambdaFunctionAssociations"] = listed(others)
                    if stand_in and not behavior.get("FunctionAssociations", {}).get("Items"):
                        behavior["FunctionAssociations"] = listed([stand_in])
                    changed += 1
            if not changed:
                return 0
            try:
                client("cloudfront").update_distribution(Id=self.id, IfMatch=found["ETag"], DistributionConfig=config)
                return changed
            except ClientError as error:
                if code_of(error) not in ("PreconditionFailed", "InvalidIfMatchVersion") or attempt == TRIES - 1:
                    raise
                say("  the distribution was changed meanwhile; reading it again")
        return 0

    def wait_until_deployed(self) -> None:
        with waiting("CloudFront is spreading the change to its edge locations (some minutes)"):
            client("cloudfront").get_waiter("distribution_deployed").wait(Id=self.id, WaiterConfig=UNTIL_DONE)

    def invalidate(self, paths: list[str]) -> None:
        """Drops cached copies, and waits until CloudFront has done so everywhere."""
        batch = {"Paths": listed(paths), "CallerReference": f"redirect-{time.time_ns()}"}
        made = client("cloudfront").create_invalidation(DistributionId=self.id, InvalidationBatch=batch)
        with waiting("CloudFront is dropping its cached copies"):
            client("cloudfront").get_waiter("invalidation_completed").wait(
                DistributionId=self.id, Id=made["Invalidation"]["Id"], WaiterConfig=UNTIL_DONE
            )


def behaviors(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield config["DefaultCacheBehavior"]
    yield from config.get("CacheBehaviors", {}).get("Items", [])


def associations(behavior: dict[str, Any]) -> list[dict[str, Any]]:
    return behavior.get("LambdaFunctionAssociations", {}).get("Items", [])


def of_function(behavior: dict[str, Any], function: str) -> list[dict[str, Any]]:
    """The behavior's associations with any version of the function of that name."""
    return [entry for entry in associations(behavior) if f":function:{function}:" in entry["LambdaFunctionARN"]]


def stand_in_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """The CloudFront Function on /site/*, which knows the way to the current site."""
    for behavior in behaviors(config):
        if behavior.get("PathPattern") in ("/site/*", "site/*"):
            for entry in behavior.get("FunctionAssociations", {}).get("Items", []):
                if entry["EventType"] == "viewer-request" and entry["FunctionARN"].endswith("-current-site"):
                    return entry
    return None


def listed(items: list[Any]) -> dict[str, Any]:
    """CloudFront's form of a list."""
    return {"Quantity": len(items), "Items": items} if items else {"Quantity": 0}
