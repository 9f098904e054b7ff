"""One screen about an environment: what runs, what the flag says, and what viewers got in the last 15 minutes."""

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import logs
from aws import POLL_SECONDS, REPORTED, account_id, client, explained
from bucket import PackageBucket
from distribution import associations, behaviors
from environment import Environment
from failure import Failure
from launchdarkly import KEY_TAG, fingerprint, has_key, item, sdk_key, setting
from store import FlagStore
from terminal import console, say

ROOT = Path(__file__).resolve().parents[1]

MINUTES = 15
# docs/logs.md has the same query, and a test checks its fields against the function's lines.
QUERY = """\
filter ispresent(level)
| stats count(*) as lines, max(data_age_ms) as oldest_ms, max(duration_us) as slowest_us by level, outcome, variation"""
# Logs Insights answers this query within seconds.
TRIES = 12


def run(environment: Environment, options: argparse.Namespace) -> int:
    # Each section is read separately, so that one that is denied or down does not hide the others.
    console.quiet = options.json
    try:
        found = {}
        advice: dict[str, None] = {}
        for name, read, lines in SECTIONS:
            try:
                found[name] = read(environment)
                shown = lines(found[name])
            except REPORTED as error:
                found[name] = {"failed": explained(error)}
                what, *more = explained(error).splitlines()
                shown = [f"unknown: {what}"]
                advice |= dict.fromkeys(more)
            for label, line in zip([name, *[""] * len(shown)], shown, strict=False):
                say(f"{label:<12} {line}")
        for line in advice:
            say(line)
    finally:
        console.quiet = False
    if options.json:
        print(json.dumps(found, indent=2))
    return 1 if any("failed" in section for section in found.values()) else 0


# ---- The stack, its package and what the distribution runs -----------------------------------------------------------


def read_stack(environment: Environment) -> dict[str, Any]:
    return {"name": environment.stack.name, "state": environment.described()["StackStatus"]}


def read_package(environment: Environment) -> dict[str, Any]:
    key = environment.stack.parameters().get("PackageKey")
    if not key:
        return {}
    packages = PackageBucket(environment.stack, account_id())
    live = packages.history()[-1]
    made = packages.uploaded().get(key)
    return {
        "hash": live.hash,
        "made": f"{made:%Y-%m-%dT%H:%M:%SZ}" if made else None,
        "live_since": live.since,
        "sdk_key": environment.stack.tags().get(KEY_TAG),
    }


def package_lines(package: dict[str, Any]) -> list[str]:
    if not package:
        return ["none: everyone gets the current site"]
    lines = [
        f"{package['hash'][:12]}, made {package['made'] or '(no longer in the bucket)'}, "
        f"live since {package['live_since'] or '(unknown)'}",
        f"SDK key {package['sdk_key'] or '(unknown)'}",
    ]
    if has_key():
        same = fingerprint(sdk_key()) == package["sdk_key"]
        lines[1] += ", the same as this shell's" if same else f"; this shell has another key: {fingerprint(sdk_key())}"
    return lines


def read_distribution(environment: Environment) -> dict[str, Any]:
    distribution = environment.distribution()
    if not distribution:
        return {}
    answer = client("cloudfront").get_distribution(Id=distribution.id)["Distribution"]
    runs = {part.get("PathPattern", "default (*)"): runs_of(part) for part in behaviors(answer["DistributionConfig"])}
    versions = {name for name in runs.values() if name.startswith(f"{environment.function}:")}
    arn = environment.stack.outputs().get("FunctionVersionArn", "")
    wanted = ":".join(arn.split(":")[6:])
    return {
        "id": distribution.id,
        "state": answer["Status"],
        "behaviors": runs,
        "version_of_stack": wanted,
        "agree": versions == ({wanted} if wanted else set()),
    }


def runs_of(behavior: dict[str, Any]) -> str:
    functions = behavior.get("FunctionAssociations", {}).get("Items", [])
    versions = [":".join(entry["LambdaFunctionARN"].split(":")[6:]) for entry in associations(behavior)]
    return ", ".join([*versions, *(entry["FunctionARN"].rpartition("/")[2] for entry in functions)]) or "no function"


def distribution_lines(found: dict[str, Any]) -> list[str]:
    if not found:
        return ["none"]
    verdict = "all agree with the stack" if found["agree"] else "NOT what the stack has"
    return [
        f"{found['id']}, {found['state']}; {verdict} ({found['version_of_stack'] or 'no version'})",
        *(f"  {pattern:<20} {runs}" for pattern, runs in found["behaviors"].items()),
    ]


# ---- The flag --------------------------------------------------------------------------------------------------------


def read_flag(_: Environment) -> dict[str, Any]:
    if not has_key():
        return {}
    name = setting(ROOT, "flag_key")
    text = item(setting(ROOT, "launchdarkly_base_uri"), sdk_key(), "flags", name)
    if text is None:
        raise Failure(f"the flag {name} does not exist in the environment of this shell's SDK key")
    flag = json.loads(text)
    return {"key": name, "on": flag.get("on"), "version": flag.get("version")}


def flag_lines(flag: dict[str, Any]) -> list[str]:
    if not flag:
        return ["not read: LAUNCHDARKLY_SDK_KEY is not set"]
    return [f"{flag['key']} is {'on' if flag['on'] else 'off'} (version {flag['version']})"]


# ---- The log ---------------------------------------------------------------------------------------------------------


def read_viewers(environment: Environment) -> dict[str, Any]:
    group = environment.stack.outputs().get("FunctionLogGroup")
    if not group:
        return {}
    say(f"{'':<12} (reading the last {MINUTES} minutes of {group} ...)", "dim")
    regions = logs.regions_with(group, logs.regions_of_account())
    rows, unread = queried(group, regions)
    visits = {wanted: 0 for wanted in ("beta", "current")}
    for row in rows:
        if row.get("outcome") == "redirect" and row.get("variation"):
            # Logs Insights writes a boolean as 1 or 0.
            visits["beta" if row["variation"] in ("1", "true") else "current"] += int(row["lines"])
    total = sum(visits.values())

    def lines(level: str) -> int:
        return sum(int(row["lines"]) for row in rows if row.get("level") == level)

    def largest(field: str) -> float | None:
        return max((float(row[field]) for row in rows if row.get(field)), default=None)

    return {
        "minutes": MINUTES,
        "regions": regions,
        **({"failed": unread} if unread else {}),
        "visits": total,
        "share_of_beta": round(visits["beta"] / total, 4) if total else None,
        "errors": lines("error"),
        "warnings": lines("warn"),
        "oldest_data_ms": largest("oldest_ms"),
        "slowest_decision_us": largest("slowest_us"),
    }


def queried(group: str, regions: list[str]) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The rows of all Regions, and why some could not be read."""
    end = int(time.time())
    unread: dict[str, str] = {}
    rows: list[dict[str, str]] = []

    def asked(ask: Callable[[str], Any], region: str) -> Any:
        try:
            return ask(region)
        except REPORTED as error:
            unread[region] = explained(error).splitlines()[0]
            return None

    def start(region: str) -> str:
        return client("logs", region).start_query(
            logGroupName=group, startTime=end - MINUTES * 60, endTime=end, queryString=QUERY
        )["queryId"]

    def result(region: str) -> dict[str, Any]:
        return client("logs", region).get_query_results(queryId=queries[region])

    begun = logs.everywhere(lambda region: asked(start, region), regions)
    queries = {region: query for region, query in zip(regions, begun, strict=True) if query}
    for _ in range(TRIES):
        waiting = list(queries)
        for region, answer in zip(waiting, logs.everywhere(lambda one: asked(result, one), waiting), strict=True):
            if answer and answer["status"] in ("Scheduled", "Running"):
                continue
            del queries[region]
            if answer and answer["status"] == "Complete":
                rows += [{cell["field"]: cell["value"] for cell in row} for row in answer["results"]]
                say(f"{'':<12} {region}: read", "dim")
            elif answer:
                unread[region] = f"the query ended with status {answer['status']}"
        if not queries:
            break
        time.sleep(POLL_SECONDS)
    return rows, unread | dict.fromkeys(queries, "the query is still running")


def viewer_lines(found: dict[str, Any]) -> list[str]:
    if not found:
        return ["no function, so no log"]
    where = ", ".join(found["regions"]) or "no Region has a log yet"
    share = "-" if found["share_of_beta"] is None else f"{found['share_of_beta']:.1%}"
    age, slowest = found["oldest_data_ms"], found["slowest_decision_us"]
    return [
        f"last {MINUTES} minutes ({where}):",
        f"{found['visits']:,} visits, {share} of them to beta; {found['errors']} errors, {found['warnings']} warnings",
        f"oldest flag data {'-' if age is None else f'{age / 1000:,.1f} s'}, "
        f"slowest decision {'-' if slowest is None else f'{slowest / 1000:,.1f} ms'}",
        *(f"NOT READ: {region}: {why}" for region, why in found.get("failed", {}).items()),
    ]


# ---- The flag store --------------------------------------------------------------------------------------------------


def read_store(environment: Environment) -> dict[str, Any]:
    stack = FlagStore(environment).stack
    found = stack.describe()
    if not found:
        return {}
    outputs, prefix = stack.outputs(), stack.parameters().get("Prefix")
    mark = {"S": f"{prefix}:$synced" if prefix else "$synced"}
    at = None
    if "TableName" in outputs:
        key = {"namespace": mark, "key": mark}
        row = client("dynamodb").get_item(TableName=outputs["TableName"], Key=key).get("Item", {})
        at = int(row["at"]["N"]) / 1000 if "at" in row else None
    return {"state": found["StackStatus"], "age_seconds": None if at is None else max(0, int(time.time() - at))}


def store_lines(store: dict[str, Any]) -> list[str]:
    if not store:
        return ["none"]
    age = store["age_seconds"]
    synced = "never" if age is None else f"{datetime.timedelta(seconds=age)} ago"
    return [f"{store['state']}; flag-sync last made it equal to LaunchDarkly: {synced}"]


Section = tuple[str, Callable[[Environment], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]
SECTIONS: list[Section] = [
    ("flag", read_flag, flag_lines),
    ("stack", read_stack, lambda stack: [f"{stack['name']} is in the state {stack['state']}"]),
    ("package", read_package, package_lines),
    ("distribution", read_distribution, distribution_lines),
    ("store", read_store, store_lines),
    ("viewers", read_viewers, viewer_lines),
]
