"""Every command, throttled, denied and interrupted at each of its calls."""

import hashlib
import json
import re
import threading

import pytest

from bucket import checksum
from standin import attached
from test_deploy import EXISTING, existing
from test_status import GROUP

REGIONS = ["us-east-1", "eu-central-1", "sa-east-1"]
FLAG = {"key": "rebrand", "version": 7, "on": True, "variations": [True, False], "offVariation": 1}


@pytest.fixture
def ready(cloud, launchdarkly, monkeypatch, moments):
    """Two packages were live, two Regions have served viewers, and a page has changed."""
    launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps(FLAG))
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", launchdarkly.address)
    monkeypatch.setattr("logs.regions_of_account", lambda: REGIONS)
    cloud.aws.account_settings["AccountLimit"]["ConcurrentExecutions"] = 1000
    cloud.packages = {}
    for name in ("first", "second"):
        pack(cloud, name)
        cloud.does("deploy")
    for region in REGIONS[1:]:
        cloud.logs(region).create_log_group(logGroupName=GROUP)
    (cloud.project / "site/index.html").write_text("changed")
    return cloud


def pack(cloud, name):
    cloud.packages[name] = hashlib.sha256(cloud.package(name.encode()))


def with_a_distribution(cloud):
    cloud.does("destroy", "--yes", "production")
    cloud.does(*EXISTING)
    existing(cloud, {None: [], "/site/beta": []})


def with_a_store(cloud):
    cloud.does("store-deploy")
    cloud.flag_sync_package(b"second")


# ---- The results of a command ----------------------------------------------------------------------------------------


def runs(name):
    """Viewers run the package of that name."""

    def check(cloud):
        (arn,) = attached(cloud.config())
        code = cloud.lambda_.get_function(FunctionName=arn)["Configuration"]["CodeSha256"]
        return code == checksum(cloud.packages[name].digest())

    return check


def shows_the_changed_page(cloud):
    page = cloud.s3.get_object(Bucket=cloud.bucket("sitebucket"), Key="site/index.html")
    return page["Body"].read() == b"changed"


def keeps_logs(cloud):
    groups = [cloud.logs(region).describe_log_groups()["logGroups"] for region in REGIONS[1:]]
    return [group["retentionInDays"] for (group,) in groups] == [30, 30]


def syncs_by_the_second_program(cloud):
    function = cloud.lambda_.get_function(FunctionName="redirect-production-flags-sync")["Configuration"]
    return function["CodeSha256"] == checksum(hashlib.sha256(b"second").digest())


STACK = "redirect-production"
# Arguments, preparation, and the check of the result.
COMMANDS = [
    (("deploy",), lambda cloud: pack(cloud, "third"), runs("third")),
    (("deploy", "--attach"), with_a_distribution, runs("second")),
    (("publish",), None, shows_the_changed_page),
    (("rollback", "production", "FIRST"), None, runs("first")),
    (("status",), None, lambda cloud: len(cloud.aws.queries) >= 2),
    (("retention", "30"), None, keeps_logs),
    (("doctor",), None, lambda cloud: "GetAccountSettings" in cloud.operations()),
    (("url",), None, lambda cloud: "DescribeStacks" in cloud.operations()),
    (("detach",), None, lambda cloud: attached(cloud.config()) == set()),
    (("destroy", "--yes", "production"), None, lambda cloud: cloud.aws.stacks == {} and cloud.buckets() == []),
    (("store-deploy",), with_a_store, syncs_by_the_second_program),
    (("store-destroy", "--yes", "production"), with_a_store, lambda cloud: list(cloud.aws.stacks) == [STACK]),
]
each_command = pytest.mark.parametrize(
    ("arguments", "prepare", "holds"), COMMANDS, ids=[" ".join(arguments) for arguments, _, _ in COMMANDS]
)


@pytest.fixture
def command(ready, arguments, prepare):
    if prepare:
        prepare(ready)
    return [ready.packages["first"].hexdigest() if word == "FIRST" else word for word in arguments]


# ---- AWS throttles ---------------------------------------------------------------------------------------------------

# Each service's error code; the answer to a HEAD has only a status.
TOO_OFTEN = dict.fromkeys(("HeadBucket", "HeadObject", "PutObject"), (503, "SlowDown"))
TOO_OFTEN["GetAccountSettings"] = (429, "TooManyRequestsException")


@each_command
def test_a_throttled_command_succeeds(ready, command, holds):
    """The first two calls of each operation are throttled."""
    refused: dict[str, int] = {}

    def throttle(operation):
        refused[operation] = refused.get(operation, 0) + 1
        return TOO_OFTEN.get(operation, (400, "Throttling")) if refused[operation] <= 2 else None

    ready.refusal = throttle
    out = ready.does(*command)
    assert holds(ready)
    assert set(refused) == {operation for operation, _ in ready.calls[ready.begun :]}
    for operation in refused:
        assert out.count(f"  {operation} failed; retrying") >= 2, operation


@pytest.mark.parametrize("command", [["deploy"], ["publish"], ["rollback"], ["doctor"], ["url"], ["retention", "1"]])
def test_an_account_that_stays_throttled_ends_a_command(ready, command):
    ready.refusal = lambda _: (400, "Throttling")
    status, out, err = ready(*command)
    assert status == 1
    text = "\n".join(out) + err
    assert "failed: refused (Throttling)" in text and "Run the same command again" in text


def test_retention_is_set_in_the_other_regions_if_one_stays_throttled(ready):
    called: list[str] = []

    def throttle(operation):
        called.append(operation)
        return (400, "ThrottlingException") if called.count("PutRetentionPolicy") in range(1, 9) else None

    ready.refusal = throttle
    assert "was not set in eu-central-1. Run the command again." in ready.fails("retention", "30")
    ready.refusal = lambda _: None
    ready.does("retention", "30")
    assert keeps_logs(ready)


# ---- A permission is missing -----------------------------------------------------------------------------------------


@each_command
def test_a_denied_command_reports_the_permission_and_resumes(ready, command, holds):
    """Denies one call per run, in the order of an allowed run; then allows all."""
    granted: set[str] = set()
    refused = ""

    def refuse(operation):
        nonlocal refused
        refused = refused or ("" if operation in granted else operation)
        return (403, "AccessDenied") if operation == refused else None

    ready.refusal = refuse
    while True:
        refused = ""
        status, out, err = ready(*command)
        if not refused:
            break
        granted.add(refused)
        text = "\n".join(out) + err
        if refused == "DescribeLogGroups":
            continue  # a denied Region does not hide the others
        assert status == 1, text
        if refused == "HeadBucket":
            assert "may not use it" in text
        else:
            assert re.search(rf"({refused}|Waiter \w+) failed: .*(AccessDenied|Forbidden)", text), text
            assert command == ["status"] or "docs/deploy.md lists the permissions" in text
    assert (status, holds(ready)) == (0, True), err
    assert granted


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


@each_command
def test_an_interrupted_command_resumes(ready, command, holds):
    """Interrupted once per run, at each call of the main thread, which receives Ctrl-C."""
    reached: set[str] = set()
    is_interrupted = False

    def interrupt(operation):
        nonlocal is_interrupted
        if operation not in reached and not is_interrupted and threading.current_thread() is threading.main_thread():
            reached.add(operation)
            is_interrupted = True
            raise KeyboardInterrupt

    ready.refusal = interrupt
    while True:
        is_interrupted = False
        status, _, err = ready(*command)
        if not is_interrupted:
            break
        assert status == 130
        assert re.search(rf"Interrupted.*To resume: just {command[0]} production", err)
    assert (status, holds(ready)) == (0, True), err
    assert reached
