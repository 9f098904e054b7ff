"""rollback end to end: boto3 against moto and the stand-in, with injected faults."""

import datetime
import hashlib
import itertools
import json
import sys

import pytest
from botocore.exceptions import ClientError
from moto.s3.models import s3_backends

import bucket
from launchdarkly import fingerprint
from standin import attached

FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:redirect-production"
PACKAGES = "redirect-production-packages-123456789012"
OTHER_KEY = "sdk-c0ffee00-0000-4000-8000-00000000beef"


@pytest.fixture
def deployed(cloud, moments):
    """Three packages, one after the other, whose hashes are in `hashes`."""
    cloud.hashes = [deploy(cloud, content) for content in (b"first", b"second", b"third")]
    return cloud


def deploy(cloud, content, *options):
    found = hashlib.sha256(cloud.package(content)).hexdigest()
    cloud.does("deploy", *options)
    return found


def live(cloud):
    """The package of the version that viewers run."""
    (arn,) = attached(cloud.config())
    found = cloud.lambda_.get_function(FunctionName=arn)["Configuration"]["CodeSha256"]
    return next(one for one in cloud.hashes if bucket.checksum(bytes.fromhex(one)) == found)


def test_one_command_makes_the_previous_package_live_again(deployed, monkeypatch):
    """On another machine, without key, build and template, while LaunchDarkly is unreachable."""
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    monkeypatch.setenv("LAUNCHDARKLY_BASE_URI", "http://127.0.0.1:9")
    deployed.recipes.clear()
    for name in ("target/edge/redirect.zip", "cloudformation/edge.yaml"):
        (deployed.project / name).unlink()
    out = deployed.does("rollback")
    assert live(deployed) == deployed.hashes[1]
    assert attached(deployed.config()) == {f"{FUNCTION}:4"}
    assert deployed.recipes == []
    assert out[-1].startswith("https://")
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[2], "a rollback can be undone"


def test_a_chosen_package_is_live_again(deployed):
    first, second, third = deployed.hashes
    deployed.does("rollback", "production", first[:8])
    assert live(deployed) == first
    out = deployed.does("rollback", "production", first)
    assert f"{first[:12]} is already live." in out and "  nothing to change" in out
    shown = [line.split()[:2] for line in deployed.does("rollback", "--list")]
    assert shown == [["Live", first[:12]], ["Earlier", third[:12]], ["Earlier", second[:12]]]
    assert live(deployed) == first


def test_a_package_that_was_never_live_is_not_chosen(deployed):
    deployed.package(b"bad")
    deployed.aws.resource_faults["Distribution"] = "Rate exceeded"
    deployed.fails("deploy")
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[1]
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[2]


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["production", "0123"], "No earlier package has a hash that begins with 0123"),
        (["production", "zz"], "No earlier package has a hash that begins with zz"),
        (["staging"], "There is no stack redirect-staging"),
    ],
)
def test_an_unknown_package_is_reported(deployed, arguments, reported):
    assert reported in deployed.fails("rollback", *arguments)
    assert live(deployed) == deployed.hashes[2]


def test_a_package_for_other_paths_is_rejected(deployed):
    """The distribution's behaviors do not change: viewers would be redirected to addresses without a page."""
    deployed.set_paths("/", "/beta")
    deployed.hashes.append(deploy(deployed, b"with other paths"))
    err = deployed.fails("rollback")
    assert "is for the paths /site and /site/beta, the distribution for / and /beta" in err
    assert live(deployed) == deployed.hashes[3]
    deployed.hashes.append(deploy(deployed, b"with these too"))
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[3]


def test_without_an_earlier_package_there_is_no_rollback(cloud):
    cloud.does("deploy", "--without-function")
    assert "has no function" in cloud.fails("rollback")
    cloud.does("deploy")
    assert "No earlier package" in cloud.fails("rollback")


def test_a_detached_function_is_attached_again(deployed):
    deployed.does("detach")
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[1]


def test_another_sdk_key_needs_confirmation(deployed, monkeypatch):
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", OTHER_KEY)
    deployed.hashes.append(deploy(deployed, b"with another key", "--new-key"))
    err = deployed.fails("rollback")
    assert "differs from the live one" in err and "--new-key" in err
    assert live(deployed) == deployed.hashes[3]

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    assert "nothing was changed" in deployed.fails("rollback")
    assert live(deployed) == deployed.hashes[3]
    monkeypatch.setattr("builtins.input", lambda _: "production")
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[2]
    assert deployed.stack().tags["redirect-sdk-key"] != fingerprint(OTHER_KEY)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    deployed.does("rollback", "--new-key")
    assert live(deployed) == deployed.hashes[3]
    assert deployed.stack().tags["redirect-sdk-key"] == fingerprint(OTHER_KEY)


@pytest.mark.parametrize("when", range(1, 4))
def test_an_interrupted_rollback_resumes(deployed, when):
    deployed.aws.steps = 1
    first = deployed.pauses

    def interrupt(number):
        if number == first + when:
            raise KeyboardInterrupt

    deployed.on_pause = interrupt
    status, _, err = deployed("rollback")
    second = deployed.hashes[1]
    assert status == 130
    assert f"To resume: just rollback production {second[:12]}" in err
    if deployed.stack().state == "UPDATE_IN_PROGRESS":
        assert "Pass the package's hash" in deployed.fails("rollback"), "it must not be undone by accident"
    deployed.does("rollback", "production", second[:12])
    assert live(deployed) == second


@pytest.mark.parametrize("operation", ["CreateChangeSet", "ExecuteChangeSet", "DescribeStacks"])
def test_a_denied_rollback_changes_nothing(deployed, operation):
    deployed.aws.faults[operation] = [403]
    err = deployed.fails("rollback")
    assert f"{operation} failed: " in err and "docs/deploy.md" in err
    assert live(deployed) == deployed.hashes[2]
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[1]


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject", "ListObjectsV2", "PutObject"])
def test_a_denied_bucket_changes_nothing(deployed, operation):
    def denied(called):
        if called == operation:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, operation)

    deployed.after_call = denied
    assert f"{operation} failed: Access Denied (AccessDenied)" in deployed.fails("rollback")
    assert live(deployed) == deployed.hashes[2]


def test_a_failed_rollback_changes_nothing(deployed):
    deployed.aws.resource_faults["Distribution"] = "Rate exceeded"
    assert "Everything runs as before" in deployed.fails("rollback")
    assert live(deployed) == deployed.hashes[2]
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[1]


# ---- What the bucket keeps -------------------------------------------------------------------------------------------


def test_the_last_ten_packages_and_the_live_one_are_kept(cloud, moments):
    start, minutes = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC), itertools.count()

    def date(operation):
        """S3's dates have a resolution of a second, in which this test would upload several packages."""
        key = cloud.calls[-1][1].get("Key", "")
        if operation == "PutObject" and key.startswith("packages/"):
            uploaded = s3_backends["123456789012"]["aws"].buckets[PACKAGES].keys[key]
            uploaded.last_modified = start + datetime.timedelta(minutes=next(minutes))

    cloud.after_call = date
    cloud.hashes = [deploy(cloud, str(number).encode()) for number in range(12)]
    kept = [key for key in cloud.keys(PACKAGES) if key.startswith("packages/")]
    assert sorted(kept) == sorted(f"packages/{one}.zip" for one in cloud.hashes[2:])
    cloud.does("rollback", "production", cloud.hashes[2])
    cloud.hashes.append(deploy(cloud, b"12"))
    kept = [key for key in cloud.keys(PACKAGES) if key.startswith("packages/")]
    assert f"packages/{cloud.hashes[2]}.zip" in kept, "it was live a moment ago"
    assert f"packages/{cloud.hashes[12]}.zip" in kept
    cloud.does("rollback")
    assert live(cloud) == cloud.hashes[2]


def test_a_package_that_an_interrupted_run_did_not_record_is_known(deployed):
    """The history is written after the stack has changed; the stack itself shows which package is live."""
    history = json.loads(deployed.s3.get_object(Bucket=PACKAGES, Key="history.json")["Body"].read())
    deployed.s3.put_object(Bucket=PACKAGES, Key="history.json", Body=json.dumps(history[:-1]))
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[1]
    deployed.does("rollback")
    assert live(deployed) == deployed.hashes[2]


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        ("arn:aws:iam::123456789012:user/team/ada", ["arn:aws:iam::123456789012:user/team/ada"]),
        (
            "arn:aws:sts::123456789012:assumed-role/Deployer/ada",
            ["arn:aws:iam::123456789012:role/Deployer", "arn:aws:iam::123456789012:role/*/Deployer"],
        ),
    ],
)
def test_a_bucket_policy_names_the_caller(caller, expected):
    assert bucket.principals(caller) == expected


def test_earlier_deployers_can_still_read(cloud, monkeypatch):
    cloud.does("deploy")
    monkeypatch.setattr(bucket, "principals", lambda _: ["arn:aws:iam::123456789012:user/eve"])
    cloud.does("deploy")
    policy = json.loads(cloud.s3.get_bucket_policy(Bucket=PACKAGES)["Policy"])
    readers = policy["Statement"][1]["Condition"]["ArnNotLike"]["aws:PrincipalArn"]
    assert readers == ["arn:aws:iam::123456789012:user/eve", "arn:aws:sts::123456789012:user/moto"]
