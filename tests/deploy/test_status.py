"""status end to end, with logs in two Regions, and with parts of AWS denied, throttled or unreachable."""

import json
import time

import pytest

import status
from harness import CANARY, ROOT
from launchdarkly import fingerprint

GROUP = "/aws/lambda/us-east-1.redirect-production"
PACKAGES = "redirect-production-packages-123456789012"


def row(lines, level="info", outcome="redirect", variation=None, oldest=None, slowest=None):
    """A row as Logs Insights returns it: every value is text, and missing fields are left out."""
    cells = {"level": level, "outcome": outcome, "variation": variation, "lines": lines}
    cells |= {"oldest_ms": oldest, "slowest_us": slowest}
    return {name: str(value) for name, value in cells.items() if value is not None}


@pytest.fixture
def running(cloud, launchdarkly, monkeypatch):
    """Deployed, with viewers near Frankfurt and Sao Paulo."""
    launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps({"key": "rebrand", "version": 7, "on": True}))
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", launchdarkly.address)
    monkeypatch.setattr("logs.regions_of_account", lambda: ["us-east-1", "eu-central-1", "sa-east-1"])
    cloud.does("deploy")
    for region in ("eu-central-1", "sa-east-1"):
        cloud.logs(region).create_log_group(logGroupName=GROUP)
    cloud.aws.query_results = {
        "eu-central-1": [
            row(30, variation=1, oldest=8000, slowest=400),
            row(50, variation=0, oldest=12500.0, slowest=250),
            row(7, outcome="pass", slowest=90),
            row(2, level="error", outcome=None),
        ],
        "sa-east-1": [
            row(10, variation=1, oldest=60000, slowest=31000),
            row(10, variation=0),
            row(3, level="warn", outcome=None),
        ],
    }
    cloud.launchdarkly = launchdarkly
    return cloud


def report(cloud, *arguments):
    ended, out, err = cloud("status", *arguments, "--json")
    return ended, json.loads("\n".join(out)), err


def test_one_screen_shows_everything(running):
    text = "\n".join(running.does("status"))
    key = running.stack().parameters["PackageKey"].removeprefix("packages/")
    for shown in (
        "rebrand is on (version 7)",
        "redirect-production is in the state CREATE_COMPLETE",
        f"{key[:12]}, made 20",
        f"SDK key {fingerprint(CANARY)}, the same as this shell's",
        "Deployed; all agree with the stack (redirect-production:1)",
        "/site/beta/*.htm*    redirect-production:1",
        "/site/beta/*.*       no function",
        "/site/*/             redirect-production-current-site",
        "last 15 minutes (eu-central-1, sa-east-1):",
        "100 visits, 40.0% of them to beta; 2 errors, 3 warnings",
        "oldest flag data 60.0 s, slowest decision 31.0 ms",
        "store        none",
    ):
        assert shown in text, text
    assert max(map(len, text.splitlines())) <= 120


def test_the_same_as_json(running):
    ended, found, err = report(running)
    assert (ended, err) == (0, "")
    assert found["flag"] == {"key": "rebrand", "on": True, "version": 7}
    assert found["distribution"]["agree"] is True
    assert found["viewers"] == {
        "minutes": 15,
        "regions": ["eu-central-1", "sa-east-1"],
        "visits": 100,
        "share_of_beta": 0.4,
        "errors": 2,
        "warnings": 3,
        "oldest_data_ms": 60000,
        "slowest_decision_us": 31000,
    }


def test_each_region_with_logs_is_queried_once(running):
    running.does("status")
    asked = {region: request for region, request, _ in running.aws.queries.values()}
    assert sorted(asked) == ["eu-central-1", "sa-east-1"] and len(running.aws.queries) == 2
    for request in asked.values():
        assert request["logGroupName"] == GROUP and request["queryString"] == status.QUERY
        assert request["endTime"] - request["startTime"] == 900
        assert abs(request["endTime"] - time.time()) < 60


def test_the_documented_query_is_the_one_that_runs():
    """tests/it/logs.rs checks the fields of the documented queries against the function's own lines."""
    assert f"```\n{status.QUERY}\n```" in (ROOT / "docs/logs.md").read_text()


def test_behaviors_that_differ_from_the_stack_are_reported(running):
    running.package(b"second")
    running.does("deploy")
    config = running.config()
    first = "arn:aws:lambda:us-east-1:123456789012:function:redirect-production:1"
    config["DefaultCacheBehavior"]["LambdaFunctionAssociations"]["Items"][0]["LambdaFunctionARN"] = first
    _, found, _ = report(running)
    assert found["distribution"]["behaviors"]["default (*)"] == "redirect-production:1"
    assert found["distribution"]["behaviors"]["/site/beta/*"] == "redirect-production:2"
    assert found["distribution"]["agree"] is False
    assert "NOT what the stack has (redirect-production:2)" in "\n".join(running.does("status"))


def test_without_a_key_the_flag_is_not_read(running, monkeypatch):
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    running.launchdarkly.asked.clear()
    text = "\n".join(running.does("status"))
    assert "not read: LAUNCHDARKLY_SDK_KEY is not set" in text
    assert f"SDK key {fingerprint(CANARY)}" in text
    assert running.launchdarkly.asked == []


def test_another_key_in_the_shell_is_reported(running, monkeypatch):
    other = "sdk-c0ffee00-0000-4000-8000-00000000beef"
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", other)
    assert f"this shell has another key: {fingerprint(other)}" in "\n".join(running.does("status"))


def test_the_age_of_the_flag_store_is_shown(running):
    running.does("store-deploy")
    assert report(running)[1]["store"] == {"state": "CREATE_COMPLETE", "age_seconds": None}
    prefix = running.stack("redirect-production-flags").parameters["Prefix"]
    mark = {"S": f"{prefix}:$synced" if prefix else "$synced"}
    at = {"N": str(int((time.time() - 700) * 1000))}
    running.dynamodb.put_item(TableName="redirect-production-flags", Item={"namespace": mark, "key": mark, "at": at})
    assert 700 <= report(running)[1]["store"]["age_seconds"] < 760
    assert "last made it equal to LaunchDarkly: 0:11:4" in "\n".join(running.does("status"))


def test_an_environment_without_viewers_or_function(cloud, monkeypatch):
    monkeypatch.setattr("logs.regions_of_account", lambda: ["us-east-1"])
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    cloud.does("deploy", "--without-function")
    text = "\n".join(cloud.does("status"))
    assert "none: everyone gets the current site" in text and "no function, so no log" in text
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", CANARY)
    cloud.does("deploy")
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    assert "0 visits, - of them to beta" in "\n".join(cloud.does("status"))


# ---- Partial failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "section"),
    [("GetDistribution", "distribution"), ("DescribeLogGroups", None), ("DescribeStacks", "stack")],
)
def test_a_denied_section_does_not_hide_the_others(running, operation, section):
    running.aws.faults[operation] = [403]
    ended, found, _ = report(running)
    failed = {name: part["failed"] for name, part in found.items() if "failed" in part}
    assert ended == 1 and len(failed) == 1
    (why,) = failed.values()
    assert f"{operation} failed: " in why and "AccessDenied" in why
    assert section is None or section in failed
    assert found["flag"]["version"] == 7


def test_a_denied_region_does_not_hide_the_others(running):
    running.aws.faults["StartQuery"] = [403]
    ended, found, _ = report(running)
    assert ended == 1
    ((region, why),) = found["viewers"]["failed"].items()
    assert "StartQuery failed: " in why
    assert found["viewers"]["visits"] == {"eu-central-1": 20, "sa-east-1": 80}[region]
    running.aws.faults["StartQuery"] = [403]
    assert "NOT READ: " in "\n".join(running("status")[1])


@pytest.mark.parametrize("operation", ["StartQuery", "GetQueryResults"])
def test_a_throttled_query_is_retried(running, operation):
    running.aws.faults[operation] = [400, 400]
    assert report(running)[1]["viewers"]["visits"] == 100


@pytest.mark.parametrize(("state", "reported"), [("Failed", "ended with status Failed"), ("Running", "still running")])
def test_a_query_that_does_not_complete_is_reported(running, state, reported):
    running.aws.query_state = state
    ended, found, _ = report(running)
    assert ended == 1
    assert sorted(found["viewers"]["failed"]) == ["eu-central-1", "sa-east-1"]
    assert all(reported in why for why in found["viewers"]["failed"].values())


def test_an_unreachable_launchdarkly_does_not_hide_the_rest(running, monkeypatch):
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", "http://127.0.0.1:9")
    ended, found, _ = report(running)
    assert ended == 1 and "cannot be reached" in found["flag"]["failed"]
    assert found["viewers"]["visits"] == 100


def test_without_aws_the_flag_is_still_shown(running, monkeypatch):
    for name in ("", "_CLOUDFORMATION", "_CLOUDFRONT", "_CLOUDWATCH_LOGS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL{name}", "http://127.0.0.1:9")
    ended, found, _ = report(running)
    assert ended == 1
    assert found["flag"]["on"] is True
    assert all("AWS not reached" in part["failed"] for name, part in found.items() if name != "flag")


def test_an_interrupted_status_prints_the_command_that_resumes(running):
    def interrupt(_):
        raise KeyboardInterrupt

    running.on_pause = interrupt
    assert running("status")[0] == 130
    running.on_pause = lambda _: None
    running.does("status")


def test_without_credentials_the_advice_is_printed_once(cloud, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    ended, out, _ = cloud("status")
    assert ended == 1
    text = "\n".join(out)
    assert text.count("unknown: No AWS credentials") > 1 and text.count("Sign in with aws login") == 1
