"""doctor, against LaunchDarkly and AWS on this machine; logs, across Regions."""

import json

import boto3
import pytest

FLAG = {"key": "rebrand", "version": 3, "on": True, "variations": [True, False], "offVariation": 1}


@pytest.fixture
def ready(cloud, launchdarkly, monkeypatch):
    """Everything is as a deployment needs it, but for the account's concurrency, which is a new account's."""
    launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps(FLAG))
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", launchdarkly.address)
    cloud.launchdarkly = launchdarkly
    return cloud


def findings(cloud):
    """What doctor says, by the name of the check: whether it is right, and the text."""
    _, out, _ = cloud("doctor")
    found, name = {}, ""
    for line in out:
        if line.startswith(("ok ", "warn ", "WRONG ", "-- ")):
            verdict, name, text = line.split(None, 1)[0], line[7:20].strip(), line[20:]
            found[name] = [verdict == "ok", text]
        else:
            found[name][1] += " " + line.strip()
    return {name: tuple(entry) for name, entry in found.items()}


def test_doctor_looks_at_everything(ready):
    ready.does("deploy")
    found = findings(ready)
    assert list(found) == ["SDK key", "Flag", "Credentials", "Region", "Concurrency", "Zip quota", "Stack"]
    assert [name for name, (right, _) in found.items() if not right] == ["Concurrency"]
    assert "boolean and on (version 3)" in found["Flag"][1]
    assert "123456789012" in found["Credentials"][1]
    assert "Service Quotas" in found["Concurrency"][1]
    assert "1 MB" in found["Zip quota"][1]
    assert found["Stack"][1].endswith("the function is attached")


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
def test_doctor_sees_what_is_wrong_with_the_flag(ready, flag, reported):
    ready.launchdarkly.answers["/sdk/flags/rebrand"] = (200, json.dumps(flag)) if flag else (404, "")
    right, text = findings(ready)["Flag"]
    assert not right and reported in text


def test_doctor_warns_when_off_would_mean_the_new_site(ready):
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
def test_doctor_sees_what_is_wrong_with_the_key(ready, monkeypatch, key, reported):
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", key)
    right, text = findings(ready)["SDK key"]
    assert not right and reported in text
    assert not key or key not in text


def test_doctor_sees_missing_credentials_and_a_broken_stack(ready, monkeypatch):
    ready.does("deploy")
    ready.stack().state = "UPDATE_ROLLBACK_FAILED"
    assert "UPDATE_ROLLBACK_FAILED" in findings(ready)["Stack"][1]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = findings(ready)
    assert not found["Credentials"][0] and "Sign in" in found["Credentials"][1]
    assert found["Flag"][0], "what needs no account is still examined"
    assert found["Stack"][1] == "not examined, as it needs: Credentials"


def write_log(cloud, region, message, seconds_ago):
    client = cloud.logs(region)
    group = "/aws/lambda/us-east-1.redirect-production"
    try:
        client.create_log_group(logGroupName=group)
        client.create_log_stream(logGroupName=group, logStreamName="1")
    except client.exceptions.ResourceAlreadyExistsException:
        pass
    cloud.write_log(region, group, message, seconds_ago)


def test_logs_are_followed_where_viewers_were(cloud, monkeypatch):
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


def test_logs_say_when_there_are_none_yet(cloud, monkeypatch):
    monkeypatch.setattr("logs.regions_of_account", lambda: ["us-east-1"])
    cloud.does("deploy")

    def stop(_):
        raise KeyboardInterrupt

    cloud.on_pause = stop
    _, out, _ = cloud("logs")
    assert any("No Region has the log group" in line for line in out)


def test_the_regions_are_those_of_the_account(cloud):
    import logs

    known = boto3.session.Session().get_available_regions("lambda")
    assert set(logs.regions_of_account()) & set(known) >= {"us-east-1", "eu-central-1"}
