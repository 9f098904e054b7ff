"""Every command while AWS answers that it is called too often, or that the caller may not: at each call in turn."""

import json
import re
import threading

import pytest

from test_deploy import EXISTING, existing
from test_status import GROUP

REGIONS = ["us-east-1", "eu-central-1", "sa-east-1"]
FLAG = {"key": "rebrand", "version": 7, "on": True, "variations": [True, False], "offVariation": 1}


@pytest.fixture
def ready(cloud, launchdarkly, monkeypatch, moments):
    """Two packages were live, viewers came in two Regions, and there is a flag store and a distribution that exists."""
    launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps(FLAG))
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", launchdarkly.address)
    monkeypatch.setattr("logs.regions_of_account", lambda: REGIONS)
    cloud.aws.account_settings["AccountLimit"]["ConcurrentExecutions"] = 1000
    cloud.does("deploy")
    cloud.package(b"second")
    cloud.does("deploy")
    for region in REGIONS[1:]:
        cloud.logs(region).create_log_group(logGroupName=GROUP)
    (cloud.project / "site/index.html").write_text("changed")
    return cloud


def with_a_distribution(cloud):
    cloud.does("destroy", "--yes", "production")
    cloud.does(*EXISTING)
    existing(cloud, {None: [], "/site/beta": []})


def with_a_store(cloud):
    cloud.does("store-deploy")
    cloud.flag_sync_package(b"second")


def with_another_package(cloud):
    cloud.package(b"third")


COMMANDS = [
    (("deploy",), with_another_package),
    (("deploy", "--attach"), with_a_distribution),
    (("publish",), None),
    (("rollback",), None),
    (("status",), None),
    (("retention", "30"), None),
    (("doctor",), None),
    (("url",), None),
    (("detach",), None),
    (("destroy", "--yes", "production"), None),
    (("store-deploy",), with_a_store),
    (("url", "production", "store"), with_a_store),
    (("store-destroy", "--yes", "production"), with_a_store),
]
# Where not 400 and Throttling, as most services answer; a HEAD's answer has only a status.
codes = dict.fromkeys(("HeadBucket", "HeadObject", "PutObject"), (503, "SlowDown"))
codes["GetAccountSettings"] = (429, "TooManyRequestsException")

each_command = pytest.mark.parametrize(
    ("arguments", "prepare"), COMMANDS, ids=[" ".join(arguments) for arguments, _ in COMMANDS]
)


@each_command
def test_a_throttled_command_does_its_work(ready, arguments, prepare):
    """The first two answers to each call are that AWS is called too often."""
    if prepare:
        prepare(ready)
    refused: dict[str, int] = {}

    def throttle(operation):
        refused[operation] = refused.get(operation, 0) + 1
        if refused[operation] > 2:
            return None
        return codes.get(operation, (400, "Throttling"))

    ready.refusal = throttle
    out = ready.does(*arguments)
    assert set(refused) == {operation for operation, _ in ready.calls[ready.begun :]}
    for operation in refused:
        assert sum(f"  {operation} failed; retrying" in line for line in out) >= 2, operation


@each_command
def test_a_refused_command_says_what_it_may_not_and_resumes(ready, arguments, prepare):
    """Each call is refused in a run of its own, in the order of a run that is not refused; then none is."""
    if prepare:
        prepare(ready)
    refused: list[str] = []
    allowed: set[str] = set()
    current = ""

    def refuse(operation):
        nonlocal current
        current = current or ("" if operation in allowed else operation)
        return (403, "AccessDenied") if operation == current else None

    ready.refusal = refuse
    while True:
        current = ""
        status, out, err = ready(*arguments)
        if not current:
            break
        text = "\n".join(out) + err
        refused.append(current)
        allowed.add(current)
        if current == "DescribeLogGroups":
            continue  # a Region that is denied hides no other
        assert status == 1, current
        if current == "HeadBucket":
            assert "may not use it" in text
            continue
        assert re.search(rf"{current} failed: (refused \(AccessDenied\)|Forbidden \(403\))", text) or re.search(
            r"Waiter .* failed: .*AccessDenied", text
        ), text
        assert "docs/deploy.md lists the permissions" in text or arguments == ("status",)
    assert status == 0, err
    assert len(refused) == len(set(refused)) > 0


@pytest.mark.parametrize("arguments", [arguments for arguments, prepare in COMMANDS if not prepare])
def test_an_account_that_stays_throttled_ends_a_command(ready, arguments):
    # In other threads, the tools' own waits take their time.
    ready.refusal = lambda _: (400, "Throttling") if threading.current_thread() is threading.main_thread() else None
    status, out, err = ready(*arguments)
    text = "\n".join(out) + err
    assert status == 1
    assert "failed: refused (Throttling)" in text
    assert arguments == ("status",) or "Run the same command again" in text
