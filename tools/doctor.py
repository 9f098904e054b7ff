"""Examines the prerequisites of a deployment: key, flag, credentials, Region, quotas."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

from botocore.exceptions import ClientError

import sites
from aws import REGION, REPORTED, client, code_of, explained, session
from distribution import behaviors
from environment import Environment
from failure import Failure
from launchdarkly import KEY_SHAPE, item, needed_key, setting
from shell_secrets import KEY_VARIABLE
from template import Resolved, load
from terminal import say

# A new account may have only 10; above the quota, CloudFront answers 503.
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
DEFAULT_CONCURRENCY = 1000
# The most that one environment serves, however fast it is.
REQUESTS_A_SECOND = 10

# A distribution in a flat-rate plan may have fewer behaviors than one that is billed by use; no call returns its plan.
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/flat-rate-pricing-plan.html
FLAT_RATE_BEHAVIORS = {"Free": 5, "Pro": 10}


class Warned(str):
    """A finding that is valid, but may not be intended."""


def examine(environment: Environment, root: Path, package: Path) -> None:
    """Prints one line for each check; fails if something is wrong."""
    checks: list[tuple[str, str, Callable[[], str]]] = [
        # name, the check that it depends on, the check
        ("SDK key", "", lambda: check_key(root)),
        ("Flag", "SDK key", lambda: check_flag(root)),
        ("Credentials", "", check_credentials),
        ("Region", "Credentials", check_region),
        ("Concurrency", "Credentials", check_concurrency),
        ("Package", "Credentials", lambda: check_package(package)),
        ("Stack", "Credentials", lambda: check_stack(environment)),
        ("Behaviors", "Stack", lambda: check_behaviors(environment, root)),
    ]
    if setting(root, "source") == "dynamodb":
        checks.append(("Flag store", "Stack", lambda: check_flag_store(environment, root)))
    wrong: list[str] = []
    unexamined: list[str] = []
    for name, needed, check in checks:
        if needed in (*wrong, *unexamined):
            unexamined.append(name)
            say(f"--     {name:<12} not examined, because it needs: {needed}", "dim")
            continue
        try:
            found = check()
            verdict, style = ("warn", "yellow") if isinstance(found, Warned) else ("ok", "green")
            say(f"{verdict:<6} {name:<12} {indented(found)}", style)
        except REPORTED as error:
            wrong.append(name)
            say(f"WRONG  {name:<12} {indented(explained(error))}", "red")
    if wrong:
        raise Failure(f"Wrong: {', '.join(wrong)}. The lines above say what to do.")


def indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 20)


def check_key(root: Path) -> str:
    key = needed_key(root)
    if not key:
        return "not needed, because the flag comes from a store and events are off"
    if not KEY_SHAPE.fullmatch(key):
        raise Failure(
            f"{KEY_VARIABLE} does not look like an SDK key (sdk- and a UUID). Copy it again from LaunchDarkly; a Relay "
            "Proxy needs the same key."
        )
    return f"{KEY_VARIABLE} is set and looks like an SDK key"


def check_flag(root: Path) -> str:
    name, base_uri = setting(root, "flag_key"), setting(root, "launchdarkly_base_uri")
    key = needed_key(root)
    if not key:
        return f"{name} is not examined, because only the store has it; just sync ENV check compares the store"
    text = item(base_uri, key, "flags", name)
    if text is None:
        raise Failure(
            f"{name} does not exist in this environment. Create it in LaunchDarkly: a boolean flag with that key."
        )
    flag = json.loads(text)
    if flag.get("archived") or flag.get("deleted"):
        raise Failure(f"{name} is archived or deleted. Restore it in LaunchDarkly.")
    variations = flag.get("variations", [])
    # As text, because 1 == True in Python.
    if sorted(map(json.dumps, variations)) != ["false", "true"]:
        raise Failure(
            f"{name} is not boolean; its variations are {json.dumps(variations)}. Create a boolean flag instead."
        )
    if flag.get("on") is not True:
        raise Failure(
            f"{name} is off: everyone gets its off variation. Switch it on in LaunchDarkly if that is not intended."
        )
    text = f"{name} exists at {base_uri}, is boolean and on (version {flag.get('version')})"
    off = flag.get("offVariation")
    if isinstance(off, int) and variations[off : off + 1] == [True]:
        return Warned(
            f"{text}\nIts off variation is true: switching it off sends everyone to the new site. Make the off "
            "variation false in LaunchDarkly."
        )
    return text


def check_credentials() -> str:
    identity = client("sts").get_caller_identity()
    found = session().get_credentials()
    return f"account {identity['Account']}, {identity['Arn']} (by {found.method if found else 'unknown'})"


def check_region() -> str:
    configured = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    note = f"; the configured {configured} is not used" if configured and configured != REGION else ""
    # Any call fails if a policy of the organization forbids the Region.
    client("cloudformation").list_stacks()
    return f"{REGION}, which Lambda@Edge functions need, is usable{note}"


def check_concurrency() -> str:
    limit = client("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    if limit < DEFAULT_CONCURRENCY:
        raise Failure(
            f"only {limit} concurrent executions in {REGION} (default: {DEFAULT_CONCURRENCY}), which serve at most "
            f"{limit * REQUESTS_A_SECOND:,} requests a second; above that, viewers get a 503. "
            "Request more: Service Quotas, AWS Lambda, Concurrent executions, in every Region with viewers."
        )
    return (
        f"{limit} concurrent executions in {REGION}: {limit * REQUESTS_A_SECOND:,} requests a second;\n"
        "each Region near viewers has its own quota"
    )


def check_package(package: Path) -> str:
    """Checks Lambda's quotas; no call returns CloudFront's quota for viewer-request functions."""
    settings = client("lambda").get_account_settings()
    limit = settings["AccountLimit"]
    size, unzipped, found = 0, 0, "no package yet (just package)"
    if package.exists():
        size, unzipped = package.stat().st_size, sum(entry.file_size for entry in ZipFile(package).infolist())
        found = f"the package has {size:,} bytes, {unzipped:,} unzipped"
    free = limit["TotalCodeSize"] - settings["AccountUsage"]["TotalCodeSize"]
    if free < size or unzipped > limit["CodeSizeUnzipped"]:
        raise Failure(
            f"{found}, but Lambda in {REGION} accepts {limit['CodeSizeUnzipped']:,} unzipped and has {free:,} left for "
            "code. Delete old versions of functions, or request more: Service Quotas, AWS Lambda, Function and layer "
            "storage."
        )
    return (
        f"{found}; {free / 1e9:,.1f} GB are left for code in {REGION}.\n"
        "CloudFront's published quota is 50 MB. If this account still has 1 MB, CloudFront rejects the association\n"
        "when it is deployed, with the quota in its message; the site then stays as it was."
    )


def check_stack(environment: Environment) -> str:
    found = environment.stack.describe()
    name = environment.stack.name
    if not found:
        return f"{name} does not exist yet"
    state = found["StackStatus"]
    if state.endswith("_FAILED") or state == "ROLLBACK_COMPLETE":
        raise Failure(f"{name} is in the state {state}; see its events in the CloudFormation console.")
    distribution = environment.distribution()
    if not distribution:
        return f"{name} is in the state {state}, without a distribution"
    attached = "attached" if distribution.is_attached(environment.function) else "not attached"
    return f"{name} is in the state {state}; the function is {attached}"


def check_behaviors(environment: Environment, root: Path) -> str:
    distribution = environment.distribution() if environment.stack.describe() else None
    if distribution:
        count, name = len(list(behaviors(distribution.config()))), distribution.id
    else:
        template = load((root / "cloudformation" / "edge.yaml").read_text())
        made = sites.behaviors(Resolved(template, sites.paths(root), environment.stack.name))
        count, name = len(made), "the distribution to be created"
    plans = ", ".join(
        f"{plan} {'allows' if count <= most else 'does not allow'} it ({most})"
        for plan, most in FLAT_RATE_BEHAVIORS.items()
    )
    return f"{name} has {count} cache behaviors; of CloudFront's flat-rate plans, {plans}"


def check_flag_store(environment: Environment, root: Path) -> str:
    table = setting(root, "store_table")
    regions = [region.strip() for region in setting(root, "store_regions").split(",") if region.strip()]
    for region in regions:
        try:
            state = client("dynamodb", region).describe_table(TableName=table)["Table"]["TableStatus"]
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            state = "missing"
        if state not in ("ACTIVE", "UPDATING"):
            raise Failure(
                f"The table {table} in {region} is {state}. Create it with just store-deploy {environment.name} (a "
                "replica: --set ReplicaRegion1=...), or correct store_table and store_regions in redirect.toml."
            )
    role = environment.stack.resources().get("FunctionRole") if environment.stack.describe() else None
    policy = environment.stack.parameters().get("FlagStorePolicyArn", "")
    attached = client("iam").list_attached_role_policies(RoleName=role)["AttachedPolicies"] if role else []
    if role and policy not in [entry["PolicyArn"] for entry in attached]:
        raise Failure(
            f"The function's role {role} has no policy to read the table. Add the policy that just store-deploy "
            f"prints: just deploy {environment.name} --set FlagStorePolicyArn=..."
        )
    reading = f"the function's role has {policy}" if role else "set its policy for the function: FlagStorePolicyArn"
    return f"{table} exists in {', '.join(regions)};\n{reading}"
