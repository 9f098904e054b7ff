"""A function's logs. An edge function's logs are where its replicas run, so all Regions are searched."""

import datetime
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import ClientError

from aws import NETWORK, REPORTED, client, code_of, explained
from failure import Failure
from terminal import say

# How far back the first read goes, how often the known Regions are read, and how often new Regions are searched for:
# viewers in a new place start replicas there.
FIRST_LOOK_MINUTES = 10
POLL_SECONDS = 10
REGION_POLL_SECONDS = 120

# CloudWatch Logs shows an event some seconds late; each read goes back this far, so that no event is missed.
OVERLAP_MS = 60_000

CONCURRENCY = 16

# The values that CloudWatch Logs accepts.
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
RETENTION_DAYS = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)  # fmt: skip

Event = tuple[int, str, str, str]


def follow(group: str, candidates: Callable[[], list[str]]) -> None:
    """Prints new lines of that log group, in the candidate Regions that have it."""
    since = int((time.time() - FIRST_LOOK_MINUTES * 60) * 1000)
    seen: dict[str, int] = {}
    regions: list[str] = []
    looked = float("-inf")
    while True:
        if time.monotonic() - looked >= REGION_POLL_SECONDS:
            found = regions_with(group, candidates())
            if not found and not regions:
                say(f"No Region has the log group {group} yet. It appears when the function first runs; waiting.")
            for region in found:
                if region not in regions:
                    say(f"Following {group} in {region}")
            regions = found or regions
            looked = time.monotonic()
        for stamp, region, event_id, message in events(group, regions, since):
            if event_id not in seen:
                seen[event_id] = stamp
                moment = datetime.datetime.fromtimestamp(stamp / 1000, datetime.UTC)
                say(f"{moment:%H:%M:%S} {region}  {message}")
                since = max(since, stamp - OVERLAP_MS)
        seen = {event_id: stamp for event_id, stamp in seen.items() if stamp >= since}
        time.sleep(POLL_SECONDS)


def regions_of_account() -> list[str]:
    return [region["RegionName"] for region in client("ec2").describe_regions()["Regions"]]


def regions_with(group: str, regions: list[str]) -> list[str]:
    def has(region: str) -> bool:
        try:
            found = client("logs", region).describe_log_groups(logGroupNamePrefix=group)
        except NETWORK:
            return False
        except ClientError as error:
            # A Region that is down, or denied by a policy of the organization, must not hide the others.
            if code_of(error) in ("AccessDeniedException", "UnrecognizedClientException"):
                return False
            raise
        return any(entry["logGroupName"] == group for entry in found["logGroups"])

    return [region for region, there in zip(regions, everywhere(has, regions), strict=True) if there]


def retain(group: str, days: int) -> None:
    """Sets how long that log group keeps its lines, in every Region that has it."""
    failed = []
    regions = regions_with(group, regions_of_account())
    for region in regions:
        try:
            client("logs", region).put_retention_policy(logGroupName=group, retentionInDays=days)
            say(f"  {region:<16} {days} days")
        except REPORTED as error:
            failed.append(region)
            say(f"  {region:<16} not set: {explained(error)}", "red")
    if failed:
        raise Failure(f"The retention of {group} was not set in {', '.join(failed)}. Run the command again.")
    if not regions:
        say(f"No Region has the log group {group} yet.")
    say("Lambda creates the group in new Regions without a retention: run this command again after some days.")


def events(group: str, regions: list[str], since: int) -> list[Event]:
    """The events in the Regions since then, oldest first."""

    def read(region: str) -> list[Event]:
        pages = client("logs", region).get_paginator("filter_log_events").paginate(logGroupName=group, startTime=since)
        try:
            found = [entry for page in pages for entry in page["events"]]
        except NETWORK:
            return []
        except ClientError as error:
            raise Failure(f"The log group {group} in {region} cannot be read.\n{explained(error)}") from None
        return [(entry["timestamp"], region, entry["eventId"], entry["message"].rstrip()) for entry in found]

    return sorted(entry for entries in everywhere(read, regions) for entry in entries)


def everywhere(read: Callable, regions: list[str]) -> list:
    """The results for all Regions, read concurrently."""
    for region in regions:
        client("logs", region)  # Create clients here: sessions are not thread-safe, clients are.
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(read, regions))
