"""A function's logs. Those of an edge function are where its replicas run, so they are looked for in all Regions."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aws import AwsError, DeployError, aws, pause, say

# How far back the first look goes, how often the known Regions are asked, and how often new ones are looked for:
# viewers elsewhere start replicas elsewhere.
FIRST_LOOK_MINUTES = 10
POLL_SECONDS = 10
REGION_POLL_SECONDS = 120

# CloudWatch Logs makes an event visible some seconds after its time; looking back that far each time misses none.
OVERLAP_MS = 60_000

# Each question is a process of the CLI.
AT_ONCE = 4


def follow(group: str, candidates: Callable[[], list[str]]) -> None:
    """Prints what comes into the log group of that name, in those of the candidate Regions that have it."""
    since = int((time.time() - FIRST_LOOK_MINUTES * 60) * 1000)
    seen: dict[str, int] = {}
    regions: list[str] = []
    looked = float("-inf")
    while True:
        if time.monotonic() - looked >= REGION_POLL_SECONDS:
            found = regions_with(group, candidates())
            if not found and not regions:
                say(f"No Region has the log group {group} yet. It appears when the function first runs; still looking.")
            for region in found:
                if region not in regions:
                    say(f"Following {group} in {region}")
            regions = found or regions
            looked = time.monotonic()
        for stamp, region, event_id, message in events(group, regions, since):
            if event_id not in seen:
                seen[event_id] = stamp
                moment = datetime.datetime.fromtimestamp(stamp / 1000, datetime.timezone.utc)
                say(f"{moment:%H:%M:%S} {region}  {message}")
                since = max(since, stamp - OVERLAP_MS)
        seen = {event_id: stamp for event_id, stamp in seen.items() if stamp >= since}
        pause(POLL_SECONDS)


def regions_of_account() -> list[str]:
    return [region["RegionName"] for region in aws("ec2", "describe-regions")["Regions"]]


def regions_with(group: str, regions: list[str]) -> list[str]:
    def has(region: str) -> bool:
        try:
            found = aws("logs", "describe-log-groups", "--log-group-name-prefix", group, region=region)
        except AwsError as error:
            # One Region that is down, or denied by a policy of the organisation, must not hide the others.
            if error.code in ("AccessDeniedException", "NoConnection", "UnrecognizedClientException"):
                return False
            raise
        return any(entry["logGroupName"] == group for entry in found["logGroups"])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [region for region, there in zip(regions, pool.map(has, regions)) if there]


def events(group: str, regions: list[str], since: int) -> list[tuple[int, str, str, str]]:
    """What the Regions logged since then, oldest first."""

    def ask(region: str) -> list[tuple[int, str, str, str]]:
        try:
            found = aws(
                "logs", "filter-log-events", "--log-group-name", group, "--start-time", str(since), region=region
            )
        except AwsError as error:
            if error.code == "NoConnection":
                return []
            raise DeployError(f"The log group {group} in {region} cannot be read.\n{error}") from None
        return [(entry["timestamp"], region, entry["eventId"], entry["message"].rstrip()) for entry in found["events"]]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sorted(entry for entries in pool.map(ask, regions) for entry in entries)
