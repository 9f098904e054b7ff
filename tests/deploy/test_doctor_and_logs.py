"""doctor, with stand-ins for LaunchDarkly and AWS; logs, in several Regions."""

import json

import boto3
import pytest
from botocore.exceptions import ClientError

FLAG = {"key": "rebrand", "version": 3, "on": True, "variations": [True, False], "offVariation": 1}


@pytest.fixture
def ready(cloud, launchdarkly, monkeypatch):
    """Everything is ready for a deployment, except that the account has a new account's concurrency."""
    launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps(FLAG))
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", launchdarkly.address)
    cloud.launchdarkly = launchdarkly
    return cloud


def findings(cloud):
    """Doctor's findings by the name of the check: whether it passed, and the text."""
    _, out, _ = cloud("doctor")
    found, name = {}, ""
    for line in out:
        if line.startswith(("ok ", "warn ", "WRONG ", "-- ")):
            verdict, name, text = line.split(None, 1)[0], line[7:20].strip(), line[20:]
            found[name] = [verdict == "ok", text]
        else:
            found[name][1] += " " + line.strip()
    return {name: tuple(entry) for name, entry in found.items()}


def test_doctor_examines_everything(ready):
    ready.does("deploy")
    found = findings(ready)
    assert list(found) == [
        "SDK key", "Flag", "Credentials", "Region", "Concurrency", "Package", "Stack", "Behaviors",
    ]  # fmt: skip
    assert [name for name, (right, _) in found.items() if not right] == ["Concurrency"]
    assert "boolean and on (version 3)" in found["Flag"][1]
    assert "123456789012" in found["Credentials"][1]
    assert "at most 100 requests a second" in found["Concurrency"][1] and "Service Quotas" in found["Concurrency"][1]
    assert "has 9 cache behaviors" in found["Behaviors"][1]
    assert "Free does not allow it (5), Pro allows it (10)" in found["Behaviors"][1]
    assert "unzipped; 80.5 GB are left for code" in found["Package"][1] and "1 MB" in found["Package"][1]
    assert found["Stack"][1].endswith("the function is attached")


@pytest.mark.parametrize("limit", [{"TotalCodeSize": 9_500}, {"CodeSizeUnzipped": 10}])
def test_doctor_reports_a_package_that_exceeds_lambdas_storage(ready, limit):
    ready.aws.account_settings["AccountLimit"] |= limit
    right, text = findings(ready)["Package"]
    assert not right and "Function and layer storage" in text
    (ready.project / "target/edge/redirect.zip").unlink()
    right, text = findings(ready)["Package"]
    assert right and "no package yet" in text


def test_doctor_fails_when_something_is_wrong(ready):
    assert "Wrong: Concurrency." in ready.fails("doctor")


@pytest.mark.parametrize(
    ("flag", "reported"),
    [
        (None, "does not exist"),
        ({**FLAG, "on": False}, "is off"),
        ({**FLAG, "variations": ["a", "b"]}, "is not boolean"),
        ({**FLAG, "variations": [1, 0]}, "is not boolean"),
        ({**FLAG, "deleted": True}, "archived or deleted"),
    ],
)
def test_doctor_reports_problems_of_the_flag(ready, flag, reported):
    ready.launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps(flag)) if flag else (404, "")
    right, text = findings(ready)["Flag"]
    assert not right and reported in text


def test_doctor_warns_if_the_off_variation_is_the_new_site(ready):
    ready.launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps({**FLAG, "offVariation": 0}))
    _, out, err = ready("doctor")
    assert any(line.startswith("warn   Flag ") for line in out)
    assert "Its off variation is true" in "\n".join(out)
    assert "Flag" not in err, "a warning is not a failure"
    for off in (1, None):
        ready.launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps({**FLAG, "offVariation": off}))
        assert "off variation" not in findings(ready)["Flag"][1]


@pytest.mark.parametrize(
    ("key", "reported"),
    [("", "is not set"), ("sdk-short", "does not look like an SDK key"), ("mob-1", "a mobile key")],
)
def test_doctor_reports_problems_of_the_key(ready, monkeypatch, key, reported):
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", key)
    right, text = findings(ready)["SDK key"]
    assert not right and reported in text
    assert not key or key not in text


def test_doctor_reports_missing_credentials_and_a_broken_stack(ready, monkeypatch):
    ready.does("deploy")
    ready.stack().state = "UPDATE_ROLLBACK_FAILED"
    assert "UPDATE_ROLLBACK_FAILED" in findings(ready)["Stack"][1]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = findings(ready)
    assert not found["Credentials"][0] and "Sign in" in found["Credentials"][1]
    assert found["Flag"][0], "checks that need no account still run"
    assert found["Stack"][1] == "not examined, because it needs: Credentials"
    assert found["Behaviors"][1] == "not examined, because it needs: Stack"


@pytest.fixture
def store_source(ready, monkeypatch):
    """The flag comes from a table, and no events are sent to LaunchDarkly."""
    path = ready.project / "redirect.toml"
    text = path.read_text()
    for before, after in (
        ('source = "launchdarkly"', 'source = "dynamodb"'),
        ('events = "full"', 'events = "off"'),
        ('store_table = ""', 'store_table = "redirect-production-flags"'),
        ('store_regions = ""', 'store_regions = "us-east-1, eu-central-1"'),
    ):
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    ready.does("store-deploy")
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    return ready


def test_doctor_examines_a_store_and_needs_no_unused_key(store_source):
    cloud = store_source
    policy = cloud.stack("redirect-production-flags").resources["ReadPolicy"].physical
    found = findings(cloud)
    assert found["SDK key"] == (True, "not needed, because the flag comes from a store and events are off")
    assert found["Flag"][0] and cloud.launchdarkly.asked == []
    assert not found["Flag store"][0] and "in eu-central-1 is missing" in found["Flag store"][1]

    cloud.make_table("eu-central-1", "redirect-production-flags")
    right, text = findings(cloud)["Flag store"]
    assert right and "us-east-1, eu-central-1" in text and "FlagStorePolicyArn" in text
    cloud.does("deploy")
    right, text = findings(cloud)["Flag store"]
    assert not right and "no policy to read the table" in text
    cloud.does("deploy", "--set", f"FlagStorePolicyArn={policy}")
    right, text = findings(cloud)["Flag store"]
    assert right and policy in text


@pytest.mark.parametrize("fault", [403, 500])
def test_doctor_continues_when_a_call_is_denied_or_fails(ready, fault):
    ready.does("deploy")
    ready.aws.faults["GetDistributionConfig"] = [fault] * 8
    found = findings(ready)
    assert not found["Stack"][0] and "GetDistributionConfig failed" in found["Stack"][1]
    assert found["Behaviors"] == (False, "not examined, because it needs: Stack")


def write_log(cloud, region, message, seconds_ago):
    client = cloud.logs(region)
    group = "/aws/lambda/us-east-1.redirect-production"
    try:
        client.create_log_group(logGroupName=group)
        client.create_log_stream(logGroupName=group, logStreamName="1")
    except client.exceptions.ResourceAlreadyExistsException:
        pass
    cloud.write_log(region, group, message, seconds_ago)


def test_logs_are_followed_in_regions_with_viewers(cloud, monkeypatch):
    monkeypatch.setattr("logs.regions_of_account", lambda: ["us-east-1", "eu-central-1", "sa-east-1"])
    cloud.does("deploy")
    write_log(cloud, "eu-central-1", "first in Frankfurt", 9)
    write_log(cloud, "sa-east-1", "second in Sao Paulo", 5)
    write_log(cloud, "eu-central-1", "long ago", 3600)

    def next_round(number):
        if number == start + 1:
            write_log(cloud, "eu-central-1", "third, later", 0)
        if number == start + 2:
            raise KeyboardInterrupt

    start = cloud.pauses
    cloud.on_pause = next_round
    out = cloud.does("logs")
    assert [line for line in out if line.startswith("Following")] == [
        "Following /aws/lambda/us-east-1.redirect-production in eu-central-1",
        "Following /aws/lambda/us-east-1.redirect-production in sa-east-1",
    ]
    said = [line.split("  ")[1] for line in out if "  " in line and line[2] == ":"]
    assert said == ["first in Frankfurt", "second in Sao Paulo", "third, later"]


def test_missing_logs_are_reported(cloud, monkeypatch):
    monkeypatch.setattr("logs.regions_of_account", lambda: ["us-east-1"])
    cloud.does("deploy")

    def stop(_):
        raise KeyboardInterrupt

    cloud.on_pause = stop
    _, out, _ = cloud("logs")
    assert any("No Region has the log group" in line for line in out)


def retention(cloud, region):
    (group,) = cloud.logs(region).describe_log_groups(logGroupNamePrefix="/aws/lambda/us-east-1.")["logGroups"]
    return group.get("retentionInDays")


def test_retention_is_set_in_every_region(cloud, monkeypatch):
    monkeypatch.setattr("logs.regions_of_account", lambda: ["us-east-1", "eu-central-1", "sa-east-1"])
    assert "No Region has the log group /aws/lambda/us-east-1.redirect-production yet." in cloud.does("retention", "30")
    for region in ("eu-central-1", "sa-east-1"):
        write_log(cloud, region, "a decision", 5)
    out = cloud.does("retention", "30")
    assert "  eu-central-1     30 days" in out and "  sa-east-1        30 days" in out
    assert "run this command again" in out[-1]
    cloud.does("retention", "production", "7")
    assert (retention(cloud, "eu-central-1"), retention(cloud, "sa-east-1")) == (7, 7)
    with pytest.raises(SystemExit):
        cloud("retention", "production", "2")


def test_retention_is_set_in_the_other_regions_if_one_is_denied(cloud, monkeypatch):
    monkeypatch.setattr("logs.regions_of_account", lambda: ["eu-central-1", "sa-east-1"])
    for region in ("eu-central-1", "sa-east-1"):
        write_log(cloud, region, "a decision", 5)
    refused: list[str] = []

    def denied(operation):
        if operation == "PutRetentionPolicy" and not refused:
            refused.append(operation)
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "by the organization"}}, operation)

    cloud.before_call = denied
    err = cloud.fails("retention", "30")
    assert "was not set in eu-central-1" in err
    assert (retention(cloud, "eu-central-1"), retention(cloud, "sa-east-1")) == (None, 30)


def test_the_regions_are_those_of_the_account(cloud):
    import logs

    known = boto3.session.Session().get_available_regions("lambda")
    assert set(logs.regions_of_account()) & set(known) >= {"us-east-1", "eu-central-1"}
