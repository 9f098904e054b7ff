"""Tells whether what a deployment needs is right: key, flag, credentials, Region, quotas."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Callable

from aws import REGION, DeployError, aws, say
from distribution import Distribution
from launchdarkly import KEY_SHAPE, KEY_VARIABLE, LaunchDarklyError, item, sdk_key, setting
from stack import Stack

# A new account may have as few as 10, and CloudFront answers 503 above it.
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
USUAL_CONCURRENCY = 1000


class Wrong(Exception):
    """A finding that keeps a deployment from working, and what to do."""


def examine(stack: Stack, function: str, root: Path, package: Path) -> None:
    """Prints one line for each thing that is examined; fails if one is wrong."""
    checks: list[tuple[str, str, Callable[[], str]]] = [
        # name, what it needs to be right, the check
        ("SDK key", "", check_key),
        ("Flag", "SDK key", lambda: check_flag(root)),
        ("Credentials", "", check_credentials),
        ("Region", "Credentials", check_region),
        ("Concurrency", "Credentials", check_concurrency),
        ("Zip quota", "", lambda: check_zip_quota(package)),
        ("Stack", "Credentials", lambda: check_stack(stack, function)),
    ]
    wrong: set[str] = set()
    for name, needed, check in checks:
        if needed in wrong:
            say(f"--     {name:<12} not examined, as it needs: {needed}")
            continue
        try:
            say(f"ok     {name:<12} {check()}")
        except (Wrong, LaunchDarklyError, DeployError) as error:
            wrong.add(name)
            say(f"WRONG  {name:<12} " + str(error).replace("\n", "\n" + " " * 20))
    if wrong:
        raise DeployError(f"Wrong: {', '.join(sorted(wrong))}. Each says above what to do.")


def check_key() -> str:
    if not KEY_SHAPE.fullmatch(sdk_key()):
        raise Wrong(
            f"{KEY_VARIABLE} does not look like an SDK key (sdk- and a UUID). Copy it anew from LaunchDarkly; a Relay "
            "Proxy takes the same one."
        )
    return f"{KEY_VARIABLE} is set and has the shape of an SDK key"


def check_flag(root: Path) -> str:
    key = sdk_key()
    name = setting(root, "flag_key")
    base_uri = setting(root, "launchdarkly_base_uri")
    text = item(base_uri, key, "flags", name)
    if text is None:
        raise Wrong(
            f"{name} does not exist in this environment. Create it in LaunchDarkly: a boolean flag with that key."
        )
    flag = json.loads(text)
    if flag.get("archived") or flag.get("deleted"):
        raise Wrong(f"{name} is archived or deleted. Restore it in LaunchDarkly.")
    variations = flag.get("variations", [])
    # By their text, as Python takes 1 and true for equal.
    if sorted(map(json.dumps, variations)) != ["false", "true"]:
        raise Wrong(
            f"{name} is not boolean; its variations are {json.dumps(variations)}. Create a boolean flag instead."
        )
    if flag.get("on") is not True:
        raise Wrong(f"{name} is off: everyone gets its off variation. Switch it on in LaunchDarkly when that is meant.")
    return f"{name} exists at {base_uri}, is boolean and on (version {flag.get('version')})"


def check_credentials() -> str:
    identity = aws("sts", "get-caller-identity")
    return f"account {identity['Account']}, {identity['Arn']}"


def check_region() -> str:
    configured = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    note = f"; your {configured} is not used" if configured and configured != REGION else ""
    # Asking it anything shows that no policy of the organisation forbids the Region.
    aws("cloudformation", "list-stacks", "--max-items", "1")
    return f"{REGION}, where Lambda@Edge functions must be, can be used{note}"


def check_concurrency() -> str:
    limit = aws("lambda", "get-account-settings")["AccountLimit"]["ConcurrentExecutions"]
    if limit < USUAL_CONCURRENCY:
        raise Wrong(
            f"only {limit} concurrent executions in {REGION} (usual: {USUAL_CONCURRENCY}); viewers above that get a "
            "503. Ask for more: Service Quotas, AWS Lambda, Concurrent executions, in every Region with viewers."
        )
    return f"{limit} concurrent executions in {REGION}; each Region near viewers has its own quota"


def check_zip_quota(package: Path) -> str:
    """AWS has no call that tells it."""
    size = f"the package has {package.stat().st_size:,} bytes" if package.exists() else "no package yet (just package)"
    return (
        f"{size}; published quota 50 MB. An account that is still held to 1 MB refuses the association\n"
        + " " * 20
        + "when it is deployed, with the quota in its message; the site then stays as it was."
    )


def check_stack(stack: Stack, function: str) -> str:
    found = stack.describe()
    if not found:
        return f"{stack.name} does not exist yet"
    state = found["StackStatus"]
    if state.endswith("_FAILED") or state == "ROLLBACK_COMPLETE":
        raise Wrong(f"{stack.name} is in the state {state}; see its events in the CloudFormation console.")
    distribution = stack.resources().get("Distribution") or stack.parameters().get("ExistingDistributionId")
    if not distribution:
        return f"{stack.name} is in the state {state}, without a distribution"
    attached = Distribution(distribution).is_attached(function)
    return f"{stack.name} is in the state {state}; the function is {'attached' if attached else 'not attached'}"
