"""A CloudFront distribution: its associations with the redirect function, and how far a change of it has spread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from aws import POLL_SECONDS, AwsError, Wait, aws, json_file, pause, say

# How often an update is tried again when someone else changed the distribution between reading and writing it.
TRIES = 3


class Distribution:
    def __init__(self, distribution_id: str) -> None:
        self.id = distribution_id

    def is_attached(self, function: str) -> bool:
        return any(of_function(behaviour, function) for behaviour in behaviours(self._config()["DistributionConfig"]))

    def detach(self, function: str) -> int:
        """Takes the function out of every behaviour, straight through CloudFront, in whatever state a stack is.

        Where the distribution has a CloudFront Function on /site/*, that one takes its place: it sends everyone to the
        current site. Returns the number of behaviours that changed.
        """
        for attempt in range(TRIES):
            found = self._config()
            config = found["DistributionConfig"]
            stand_in = stand_in_of(config)
            changed = 0
            for behaviour in behaviours(config):
                ours = of_function(behaviour, function)
                if ours:
                    others = [entry for entry in associations(behaviour) if entry not in ours]
                    behaviour["LambdaFunctionAssociations"] = listed(others)
                    if stand_in and not behaviour.get("FunctionAssociations", {}).get("Items"):
                        behaviour["FunctionAssociations"] = listed([stand_in])
                    changed += 1
            if not changed:
                return 0
            try:
                with json_file(config) as file:
                    aws(
                        "cloudfront", "update-distribution",
                        "--id", self.id, "--if-match", found["ETag"], "--distribution-config", file,
                    )  # fmt: skip
                return changed
            except AwsError as error:
                if error.code not in ("PreconditionFailed", "InvalidIfMatchVersion") or attempt == TRIES - 1:
                    raise
                say("  the distribution was changed meanwhile; reading it again")
        return 0

    def wait_until_deployed(self) -> None:
        wait = Wait()
        while True:
            found = wait.ask("cloudfront", "get-distribution", "--id", self.id)["Distribution"]
            if found["Status"] == "Deployed":
                return
            say(f"  {wait.elapsed()} CloudFront is spreading the change to its edge locations (some minutes)")
            pause(POLL_SECONDS)

    def invalidate(self, paths: list[str]) -> None:
        """Drops cached copies, and waits until CloudFront has done so everywhere."""
        batch = {"Paths": listed(paths), "CallerReference": f"redirect-{time.time_ns()}"}
        with json_file(batch) as file:
            made = aws("cloudfront", "create-invalidation", "--distribution-id", self.id, "--invalidation-batch", file)
        wait = Wait()
        found = made["Invalidation"]
        while found["Status"] != "Completed":
            say(f"  {wait.elapsed()} CloudFront is dropping its cached copies")
            pause(POLL_SECONDS)
            found = wait.ask(
                "cloudfront", "get-invalidation", "--distribution-id", self.id, "--id", made["Invalidation"]["Id"]
            )["Invalidation"]

    def _config(self) -> dict[str, Any]:
        return aws("cloudfront", "get-distribution-config", "--id", self.id)


def behaviours(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield config["DefaultCacheBehavior"]
    yield from config.get("CacheBehaviors", {}).get("Items", [])


def associations(behaviour: dict[str, Any]) -> list[dict[str, Any]]:
    return behaviour.get("LambdaFunctionAssociations", {}).get("Items", [])


def of_function(behaviour: dict[str, Any], function: str) -> list[dict[str, Any]]:
    """The behaviour's associations with any version of the function of that name."""
    return [entry for entry in associations(behaviour) if f":function:{function}:" in entry["LambdaFunctionARN"]]


def stand_in_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """The CloudFront Function on /site/*, which knows the way to the current site."""
    for behaviour in behaviours(config):
        if behaviour.get("PathPattern") in ("/site/*", "site/*"):
            for entry in behaviour.get("FunctionAssociations", {}).get("Items", []):
                if entry["EventType"] == "viewer-request" and entry["FunctionARN"].endswith("-current-site"):
                    return entry
    return None


def listed(items: list[Any]) -> dict[str, Any]:
    """CloudFront's form of a list."""
    return {"Quantity": len(items), "Items": items} if items else {"Quantity": 0}
