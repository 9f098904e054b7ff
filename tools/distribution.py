"""A CloudFront distribution: its associations with the redirect function, and waits for its deployment."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from aws import POLL_SECONDS, client, code_of
from failure import Failure
from terminal import say, waiting

# Attempts of an update, in case someone else changes the distribution between reading and writing it.
TRIES = 3

# A wait ends when CloudFront is done, or when the user interrupts it.
UNTIL_DONE = {"Delay": POLL_SECONDS, "MaxAttempts": 10_000}


class Attachment(NamedTuple):
    """Which behaviors of an existing distribution run which function."""

    function: str
    # Path patterns of the template: those that the function answers ("*" is the default behavior), and those where the
    # CloudFront Function adds the index page.
    redirected: list[str]
    indexed: list[str]

    def refuse_others(self, config: dict[str, Any]) -> None:
        conflicts = [
            f"  {pattern_of(behavior)}  {arn}"
            for behavior in behaviors(config)
            if self._belongs(behavior)
            for arn in self._others(behavior)
        ]
        if conflicts:
            raise Failure(
                f"Nothing was attached: in behaviors that need {self.function}, the distribution runs other functions "
                "for viewers. Remove them from these behaviors, or attach by hand (docs/deploy.md):\n"
                + "\n".join(conflicts)
            )

    def apply_to(self, config: dict[str, Any], version: str, stand_in: str) -> int:
        """Returns the number of changed behaviors. `stand_in` is the CloudFront Function of the current site."""
        self.refuse_others(config)
        changed = 0
        missing = [*self.redirected, *self.indexed]
        for behavior in behaviors(config):
            pattern, before = pattern_of(behavior), on_viewer_request(behavior)
            missing = [name for name in missing if name != pattern]
            wanted = version if self._belongs(behavior) else stand_in
            if before == [wanted] or (wanted == stand_in and (pattern not in self.indexed or before)):
                continue
            run_on_viewer_request(behavior, wanted)
            say(f"  {pattern:<20} {', '.join(map(name_of, before)) or 'no function'} -> {name_of(wanted)}")
            changed += 1
        for pattern in missing:
            say(f"  {pattern:<20} is not one of its behaviors; see docs/deploy.md for its purpose", "yellow")
        return changed

    def _belongs(self, behavior: dict[str, Any]) -> bool:
        return pattern_of(behavior) in self.redirected or bool(of_function(behavior, self.function))

    def _others(self, behavior: dict[str, Any]) -> list[str]:
        """The functions that conflict: for viewer events, CloudFront accepts one kind of function, and one of it.

        https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/edge-function-restrictions-all.html
        """
        ours = of_function(behavior, self.function) + stand_ins(behavior, self.function)
        arns = [entry["FunctionARN"] for entry in scripts(behavior) if entry not in ours]
        return arns + [
            entry["LambdaFunctionARN"]
            for entry in associations(behavior)
            if entry["EventType"] == "viewer-request" and entry not in ours
        ]


class Distribution:
    def __init__(self, distribution_id: str) -> None:
        self.id = distribution_id

    def config(self) -> dict[str, Any]:
        return client("cloudfront").get_distribution_config(Id=self.id)["DistributionConfig"]

    def is_attached(self, function: str) -> bool:
        return any(of_function(behavior, function) for behavior in behaviors(self.config()))

    def attach(self, attachment: Attachment, version: str, stand_in: str, saved: Path) -> int:
        """Sets that version in each behavior where it belongs, in one update; returns how many changed.

        The previous configuration is saved in a file in the folder `saved`.
        """

        def change(config: dict[str, Any]) -> int:
            before = json.dumps(config, indent=1)
            changed = attachment.apply_to(config, version, stand_in)
            if changed:
                # It may contain an origin's secret headers.
                file = saved / f"{self.id}-{time.strftime('%Y%m%dT%H%M%S')}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                    out.write(before)
                say(f"  the previous configuration is in {file}")
            return changed

        return self._update(change)

    def detach(self, function: str, stand_in: str) -> int:
        """Removes the function from every behavior directly through CloudFront, whatever the state of the stack.

        The CloudFront Function `stand_in`, if there is one, replaces it and sends everyone to the current site. Returns
        the number of changed behaviors.
        """

        def change(config: dict[str, Any]) -> int:
            changed = 0
            for behavior in behaviors(config):
                ours = of_function(behavior, function)
                if ours:
                    others = [entry for entry in associations(behavior) if entry not in ours]
                    behavior["LambdaFunctionAssociations"] = listed(others)
                    # With both kinds of function for viewers, CloudFront would reject the whole update.
                    viewers = [entry for entry in others if entry["EventType"].startswith("viewer-")]
                    if stand_in and not viewers and not scripts(behavior):
                        run_on_viewer_request(behavior, stand_in)
                    changed += 1
            return changed

        return self._update(change)

    def release(self, function: str) -> None:
        """Removes the CloudFront Function too, which cannot be deleted while a distribution runs it."""

        def change(config: dict[str, Any]) -> int:
            changed = 0
            for behavior in behaviors(config):
                ours = stand_ins(behavior, function)
                if ours:
                    behavior["FunctionAssociations"] = listed([part for part in scripts(behavior) if part not in ours])
                    changed += 1
            return changed

        if self._update(change):
            self.wait_until_deployed()

    def _update(self, change: Callable[[dict[str, Any]], int]) -> int:
        """Reads, changes and writes the configuration in one step; retries if someone else changed it meanwhile."""
        for attempt in range(TRIES):
            found = client("cloudfront").get_distribution_config(Id=self.id)
            config = found["DistributionConfig"]
            changed = change(config)
            if not changed:
                return 0
            try:
                client("cloudfront").update_distribution(Id=self.id, IfMatch=found["ETag"], DistributionConfig=config)
                return changed
            except ClientError as error:
                if code_of(error) not in ("PreconditionFailed", "InvalidIfMatchVersion") or attempt == TRIES - 1:
                    raise
                say("  someone else changed the distribution; reading it again")
        return 0

    def wait_until_deployed(self) -> None:
        with waiting("CloudFront is deploying the change to its edge locations (some minutes)"):
            client("cloudfront").get_waiter("distribution_deployed").wait(Id=self.id, WaiterConfig=UNTIL_DONE)

    def invalidate(self, paths: list[str]) -> None:
        """Invalidates cached copies, and waits until CloudFront has done so everywhere."""
        batch = {"Paths": listed(paths), "CallerReference": f"redirect-{time.time_ns()}"}
        made = client("cloudfront").create_invalidation(DistributionId=self.id, InvalidationBatch=batch)
        with waiting("CloudFront is removing its cached copies"):
            client("cloudfront").get_waiter("invalidation_completed").wait(
                DistributionId=self.id, Id=made["Invalidation"]["Id"], WaiterConfig=UNTIL_DONE
            )


def behaviors(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield config["DefaultCacheBehavior"]
    yield from config.get("CacheBehaviors", {}).get("Items", [])


def pattern_of(behavior: dict[str, Any]) -> str:
    """CloudFront accepts a pattern with and without the first slash."""
    pattern = behavior.get("PathPattern", "*")
    return pattern if pattern[0] in "/*" else f"/{pattern}"


def on_viewer_request(behavior: dict[str, Any]) -> list[str]:
    """The ARNs of the functions that its viewer requests run."""
    found = [(entry["EventType"], entry["LambdaFunctionARN"]) for entry in associations(behavior)]
    found += [(entry["EventType"], entry["FunctionARN"]) for entry in scripts(behavior)]
    return [arn for event, arn in found if event == "viewer-request"]


def run_on_viewer_request(behavior: dict[str, Any], arn: str) -> None:
    lambdas = [entry for entry in associations(behavior) if entry["EventType"] != "viewer-request"]
    own: dict[str, Any] = {"EventType": "viewer-request"}
    if ":lambda:" in arn:
        lambdas.append({**own, "LambdaFunctionARN": arn, "IncludeBody": False})
        behavior["FunctionAssociations"] = listed([])
    else:
        behavior["FunctionAssociations"] = listed([{**own, "FunctionARN": arn}])
    behavior["LambdaFunctionAssociations"] = listed(lambdas)


def name_of(arn: str) -> str:
    """For example function:redirect-production:3."""
    return arn.split(":", 5)[5]


def associations(behavior: dict[str, Any]) -> list[dict[str, Any]]:
    return behavior.get("LambdaFunctionAssociations", {}).get("Items", [])


def of_function(behavior: dict[str, Any], function: str) -> list[dict[str, Any]]:
    """The behavior's associations with any version of the function of that name."""
    return [entry for entry in associations(behavior) if f":function:{function}:" in entry["LambdaFunctionARN"]]


def scripts(behavior: dict[str, Any]) -> list[dict[str, Any]]:
    """The behavior's associations with CloudFront Functions."""
    return behavior.get("FunctionAssociations", {}).get("Items", [])


def stand_ins(behavior: dict[str, Any], function: str) -> list[dict[str, Any]]:
    """The behavior's associations with the CloudFront Function of the current site."""
    own = f":function/{function}-current-site"
    return [entry for entry in scripts(behavior) if entry["FunctionARN"].endswith(own)]


def listed(items: list[Any]) -> dict[str, Any]:
    """A list in CloudFront's format."""
    return {"Quantity": len(items), "Items": items} if items else {"Quantity": 0}
