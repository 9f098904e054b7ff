"""The commands of the flag store: boto3 against moto and the stand-in, with injected faults."""

import json
import re
import sys

import pytest

import stack
import standin
import store
from harness import CANARY  # first: it finds the tools

ACCOUNT = "123456789012"
STACK = "redirect-production-flags"
PACKAGES = f"{STACK}-packages-{ACCOUNT}"
SDK_KEY = "/redirect/production/sdk-key"
WEBHOOK_SECRET = "/redirect/production/webhook-secret"
OTHER_KEY = "sdk-0ddba115-0000-4000-8000-00000000beef"
SECRET_ARN = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:launchdarkly/{{}}-AbC123"


def secret(cloud, name):
    found = cloud.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
    assert found["Type"] == "SecureString"
    return found["Value"]


def parameters(cloud):
    return sorted(entry["Name"] for entry in cloud.ssm.describe_parameters()["Parameters"])


def left(cloud):
    """The existing resources of flag stores."""
    return {
        "stacks": sorted(cloud.aws.stacks),
        "parameters": parameters(cloud),
        "buckets": cloud.buckets(),
        "tables": cloud.dynamodb.list_tables()["TableNames"],
        "functions": [entry["FunctionName"] for entry in cloud.lambda_.list_functions()["Functions"]],
    }


NOTHING: dict[str, list[str]] = {"stacks": [], "parameters": [], "buckets": [], "tables": [], "functions": []}
ALL = {
    "stacks": [STACK],
    "parameters": [SDK_KEY, WEBHOOK_SECRET],
    "buckets": [PACKAGES],
    "tables": [STACK],
    "functions": [f"{STACK}-sync"],
}


def test_the_first_deploy_creates_everything(cloud):
    out = cloud.does("store-deploy")
    assert left(cloud) == ALL
    text = "\n".join(out)
    assert re.search(r"^Webhook  https://\w+\.execute-api\.us-east-1\.amazonaws\.com/, signed", text, re.MULTILINE)
    assert f"Table    {STACK}, " in text
    assert f"arn:aws:iam::{ACCOUNT}:policy/{STACK}-readpolicy, for just deploy production" in text
    assert f"aws ssm get-parameter --region us-east-1 --with-decryption --name {WEBHOOK_SECRET} " in text

    assert secret(cloud, SDK_KEY) == CANARY
    assert re.fullmatch("[0-9a-f]{64}", secret(cloud, WEBHOOK_SECRET))

    function = cloud.lambda_.get_function(FunctionName=f"{STACK}-sync")["Configuration"]
    assert (function["Runtime"], function["Handler"]) == ("provided.al2023", "bootstrap")
    variables = function["Environment"]["Variables"]
    assert variables["FLAG_SYNC_TABLE"] == STACK
    assert variables["FLAG_SYNC_SDK_KEY_PARAMETER"] == SDK_KEY
    assert variables["FLAG_SYNC_WEBHOOK_SECRET_PARAMETER"] == WEBHOOK_SECRET
    table = cloud.dynamodb.describe_table(TableName=STACK)["Table"]
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["namespace", "key"]


def test_a_second_deploy_changes_nothing_and_another_package_only_the_function(cloud, monkeypatch):
    cloud.does("store-deploy", "--set", "ScheduleMinutes=10", "--set", "ReplicaRegion1=eu-central-1")
    webhook_secret = secret(cloud, WEBHOOK_SECRET)
    before = dict(cloud.stack(STACK).resources)
    cloud.calls.clear()
    # The key is in SSM now.
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    assert "  nothing to change" in cloud.does("store-deploy")
    assert not set(cloud.operations()) & {"PutObject", "CreateBucket", "PutParameter"}
    assert cloud.aws.calls["ExecuteChangeSet"] == 1

    cloud.flag_sync_package(b"second")
    cloud.does("store-deploy")
    after = cloud.stack(STACK).resources
    assert [name for name in after if after[name] is not before[name]] == ["Sync"]
    assert len(cloud.keys(PACKAGES)) == 2, "a rollback of the stack needs the package before"
    assert (secret(cloud, SDK_KEY), secret(cloud, WEBHOOK_SECRET)) == (CANARY, webhook_secret)
    # Earlier settings are kept.
    assert after["Schedule"].properties["ScheduleExpression"] == "rate(10 minutes)"
    replicas = [replica["Region"] for replica in after["Table"].properties["Replicas"]]
    assert replicas == ["us-east-1", "eu-central-1"]


def test_the_key_is_only_sent_to_ssm(cloud, monkeypatch):
    """The fixture looks for both secrets in the record. This shows that the record has everything that matters."""
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-c0ffee00-0000-4000-8000-0000000000ld")
    cloud.does("store-deploy")
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", CANARY)
    cloud.does("store-deploy", "--new-key")
    assert secret(cloud, SDK_KEY) == CANARY, "another key in the shell replaces it"
    puts = [(put["Name"], put["Type"], put["Overwrite"]) for put in cloud.aws.put_parameters]
    of_key = (SDK_KEY, "SecureString", True)
    assert puts == [of_key, (WEBHOOK_SECRET, "SecureString", False), of_key]
    recorded = "\n".join(cloud.record + cloud.aws.requests)
    for trace in (
        "CreateChangeSet {",  # calls
        '"SdkKeyParameter"',  # with their parameters
        "is kept in SSM Parameter Store",  # output
        "TemplateBody=",  # requests to CloudFormation
        "GetParameter",  # requests to SSM
        "PutParameter",
    ):
        assert trace in recorded, trace


@pytest.mark.parametrize(
    ("arguments", "key", "reported"),
    [
        ([], "", f"The SSM parameter {SDK_KEY} is missing. Export LAUNCHDARKLY_SDK_KEY"),
        ([], "mob-1", "is a mobile key"),
        (["--set", "Color=red"], CANARY, "--set Color=...: expected NAME=VALUE with NAME one of SdkKeyParameter"),
        (["--set", "PackageKey=x"], CANARY, "expected NAME=VALUE"),
        (["--set", CANARY], CANARY, "--set: expected NAME=VALUE"),
        (["--set", f"SdkKeyParameter={CANARY}"], CANARY, "begins with a slash"),
        (["--set", "SdkKeyParameter=arn:aws:secretsmanager:eu-west-1:123456789012:secret:-AbC123"], "", "in us-east-1"),
        (["--set", f"SdkKeyParameter={SECRET_ARN.format('key').rpartition('-')[0]}"], "", "the whole ARN of a secret"),
        (["--set", "ReplicaRegion1=Frankfurt"], CANARY, "Parameter ReplicaRegion1 failed to satisfy constraint"),
    ],
)
def test_invalid_arguments_are_reported(cloud, monkeypatch, arguments, key, reported):
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", key)
    assert reported in cloud.fails("store-deploy", *arguments)
    assert cloud.aws.stacks == {}
    if "ReplicaRegion1=Frankfurt" not in arguments:  # reported by CloudFormation
        assert left(cloud) == NOTHING


def test_a_missing_build_is_reported(cloud):
    (cloud.project / "target/lambda/flag-sync/bootstrap.zip").unlink()
    assert "bootstrap.zip cannot be read" in cloud.fails("store-deploy")
    assert set(cloud.operations()) <= {"GetCallerIdentity", "DescribeStacks"}, "nothing changes"


def test_other_commands_need_a_deployed_store(cloud):
    for command in (("url", "staging", "store"), ("logs", "staging", "store")):
        err = cloud.fails(*command)
        assert "There is no flag store staging: the stack redirect-staging-flags in us-east-1 does not exist" in err
        assert "just store-deploy staging" in err
    status, _, err = cloud("sync", "staging", "check")
    assert "There is no flag store staging" in err
    assert status == 2, "1 would mean that the table differs"


def test_a_dry_run_does_not_call_aws(cloud, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    text = "\n".join(cloud.does("store-deploy", "staging", "--dry-run", "--set", "ScheduleMinutes=10"))
    assert "/redirect/staging/sdk-key: this shell's" in text
    for reported in (
        "redirect-staging-flags-packages-ACCOUNT",
        "bootstrap.zip (5 bytes) as packages/",
        "the stack redirect-staging-flags from cloudformation/flag-store.yaml",
        "parameter ScheduleMinutes = 10",
        "parameter WebhookSecretParameter = /redirect/staging/webhook-secret",
        "AWS::DynamoDB::GlobalTable",
    ):
        assert reported in text

    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    (cloud.project / "target/lambda/flag-sync/bootstrap.zip").unlink()
    arn = SECRET_ARN.format("webhook")
    text = "\n".join(cloud.does("store-deploy", "--dry-run", "--set", f"WebhookSecretParameter={arn}"))
    assert f"{SDK_KEY}: must exist, because LAUNCHDARKLY_SDK_KEY is not set" in text
    assert f"{arn}, not changed" in text
    assert "after it is built" in text
    assert CANARY not in cloud.fails("store-deploy", "--dry-run", "--set", f"SdkKeyParameter={CANARY}")
    assert cloud.calls == []


def test_secrets_can_be_in_secrets_manager(cloud, monkeypatch):
    key, webhook = SECRET_ARN.format("key"), SECRET_ARN.format("webhook")
    text = "\n".join(
        cloud.does("store-deploy", "--set", f"SdkKeyParameter={key}", "--set", f"WebhookSecretParameter={webhook}")
    )
    assert f"The SDK key is kept in {key}; LAUNCHDARKLY_SDK_KEY is not used" in text
    assert f"aws secretsmanager get-secret-value --region us-east-1 --secret-id {webhook} " in text
    # The next deployment keeps them, without another setting.
    cloud.flag_sync_package(b"second")
    cloud.does("store-deploy")
    assert not any("Parameter" in operation for operation in cloud.operations())
    variables = cloud.lambda_.get_function(FunctionName=f"{STACK}-sync")["Configuration"]["Environment"]["Variables"]
    assert variables["FLAG_SYNC_SDK_KEY_PARAMETER"] == key
    # A deployment can go back to this tool's own parameter.
    cloud.does("store-deploy", "--set", f"SdkKeyParameter={SDK_KEY}")
    assert parameters(cloud) == [SDK_KEY]
    assert secret(cloud, SDK_KEY) == CANARY


# ---- Faults ----------------------------------------------------------------------------------------------------------


def interrupt_after(cloud, interrupted, count=1):
    """Ctrl-C after that call of the operation: AWS has received it, but the tool does not know."""
    seen = []

    def after_call(operation):
        if operation == interrupted:
            seen.append(operation)
            if len(seen) == count:
                raise KeyboardInterrupt

    cloud.after_call = after_call


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        ("PutParameter", 1),
        ("PutParameter", 2),
        ("CreateBucket", 1),
        ("PutObject", 1),
        ("CreateChangeSet", 1),
        ("ExecuteChangeSet", 1),
    ],
)
def test_an_interrupted_deploy_resumes(cloud, operation, count):
    interrupt_after(cloud, operation, count)
    cloud.aws.steps = 2
    status, _, err = cloud("store-deploy")
    assert status == 130
    assert "To resume: just store-deploy production" in err
    made = [put["Value"] for put in cloud.aws.put_parameters if put["Name"] == WEBHOOK_SECRET]
    cloud.does("store-deploy")
    assert left(cloud) == ALL
    assert cloud.aws.calls["ExecuteChangeSet"] == 1, "it waits for the operation in flight instead of repeating it"
    assert not made or [secret(cloud, WEBHOOK_SECRET)] == made, "LaunchDarkly may already have it"


def test_a_failed_creation_is_reported_with_its_cause_and_the_next_step(cloud):
    cloud.aws.resource_faults["WebhookStage"] = "Rate exceeded"
    err = cloud.fails("store-deploy")
    assert "ROLLBACK_COMPLETE" in err and "CREATE_FAILED" in err and "Rate exceeded" in err
    assert "delete the remains with just store-destroy production" in err
    puts = len(cloud.aws.put_parameters)
    assert "with just store-destroy production" in cloud.fails("store-deploy")
    assert len(cloud.aws.put_parameters) == puts, "a rejected change has no effect"
    assert "is in the state ROLLBACK_COMPLETE" in cloud.fails("url", "production", "store")
    cloud.does("store-destroy", "--yes", "production")
    assert left(cloud) == NOTHING
    cloud.does("store-deploy")
    assert left(cloud) == ALL


def test_a_failed_update_rolls_back_to_the_previous_package(cloud):
    """Even if the edge environment of that name was destroyed meanwhile: it has a separate package bucket."""
    cloud.does("deploy", "--without-function")
    cloud.does("store-deploy")
    cloud.does("destroy", "--yes", "production")
    before = cloud.stack(STACK).parameters["PackageKey"]
    cloud.flag_sync_package(b"second")
    cloud.aws.resource_faults["FailingAlarm"] = "Rate exceeded"
    # A setting that changes the alarm, after the function.
    err = cloud.fails("store-deploy", "--set", f"AlarmTopicArn=arn:aws:sns:us-east-1:{ACCOUNT}:alarms")
    assert "UPDATE_ROLLBACK_COMPLETE" in err and "Everything runs as before" in err
    assert cloud.stack(STACK).parameters["PackageKey"] == before
    assert cloud.stack(STACK).resources["Sync"].properties["Code"] == {"S3Bucket": PACKAGES, "S3Key": before}
    assert before in cloud.keys(PACKAGES)


def test_a_failed_update_rollback_is_reported_with_the_repair_command(cloud):
    cloud.does("store-deploy")
    cloud.stack(STACK).state = "UPDATE_ROLLBACK_FAILED"
    err = cloud.fails("store-deploy")
    repair = f"aws cloudformation continue-update-rollback --region us-east-1 --stack-name {STACK}"
    assert repair in err
    stack_id = cloud.stack(STACK).id
    text = stack.Stack(STACK, "").failure(stack_id, "UPDATE_ROLLBACK_FAILED", "token")
    assert repair in text and "runs as before" not in text


def test_a_secret_that_ssm_does_not_return_yet_is_kept(cloud, monkeypatch):
    cloud.does("store-deploy")
    made = secret(cloud, WEBHOOK_SECRET)
    monkeypatch.setattr(store, "has_parameter", lambda _: False)
    cloud.does("store-deploy")
    assert secret(cloud, WEBHOOK_SECRET) == made


def test_another_key_must_be_confirmed(cloud, monkeypatch):
    """Another environment's key would replace every flag in the table."""
    cloud.does("store-deploy")
    write_flag_sync(cloud, 0)
    cloud.does("sync")
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", OTHER_KEY)
    cloud.recipes.clear()
    assert "pass --new-key" in cloud.fails("store-deploy")
    assert (secret(cloud, SDK_KEY), cloud.recipes) == (CANARY, [])
    cloud.does("store-deploy", "--new-key")
    assert secret(cloud, SDK_KEY) == OTHER_KEY
    monkeypatch.delenv("LAUNCHDARKLY_SDK_KEY")
    cloud.does("store-deploy")

    # The key that flag-sync reads, written by hand: compared before the table changes; check only reads.
    cloud.ssm.put_parameter(Name=SDK_KEY, Value=CANARY, Type="SecureString", Overwrite=True)
    status, _, err = cloud("sync")
    assert status == 2 and "pass --new-key" in err
    assert cloud("sync", "production", "check")[0] == 0
    cloud.does("sync", "--new-key")
    cloud.does("sync")


def test_a_key_in_secrets_manager_is_compared_too(cloud):
    cloud.does("store-deploy")
    arn = cloud.secrets.create_secret(Name="redirect/key", SecretString=OTHER_KEY)["ARN"]
    cloud.does("store-deploy", "--set", f"SdkKeyParameter={arn}")
    write_flag_sync(cloud, 0)
    assert "pass --new-key" in cloud("sync")[2]
    cloud.does("sync", "--new-key")


# ---- url, logs, sync -------------------------------------------------------------------------------------------------


def write_flag_sync(cloud, status):
    """A stand-in for the program, which records how it is run."""
    path = cloud.project / "target/release/flag-sync"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(path) + '.json'!r}, 'w'))\nsys.exit({status})\n"
    )
    path.chmod(0o755)


def flag_sync_was_run(cloud):
    return json.loads((cloud.project / "target/release/flag-sync.json").read_text())


def test_the_deployed_store_is_shown_and_synchronized(cloud, monkeypatch):
    key = SECRET_ARN.format("key")
    cloud.does(
        "store-deploy", "staging", "--set", f"SdkKeyParameter={key}", "--set", "Prefix=shop",
        "--set", "LaunchDarklyBaseUri=https://sdk.eu.launchdarkly.com",
    )  # fmt: skip
    (line,) = cloud.does("url", "staging", "store")
    assert re.fullmatch(r"https://\w+\.execute-api\.us-east-1\.amazonaws\.com/", line)

    # As in the shell of a developer of flag-sync.
    monkeypatch.setenv("FLAG_SYNC_REDIS", "redis://localhost")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    expected = [
        "--table", "redirect-staging-flags", "--prefix", "shop", "--sdk-key-parameter", key,
        "--base-uri", "https://sdk.eu.launchdarkly.com",
    ]  # fmt: skip
    write_flag_sync(cloud, 0)
    cloud.does("sync", "staging")
    arguments, environment = flag_sync_was_run(cloud)
    assert arguments == ["once", *expected]
    assert environment["AWS_REGION"] == "us-east-1"
    assert environment["AWS_ACCESS_KEY_ID"] == "AKIAEXAMPLE"
    assert not {"FLAG_SYNC_REDIS", "LAUNCHDARKLY_SDK_KEY"} & set(environment)

    for status in (1, 2):
        write_flag_sync(cloud, status)
        assert cloud("sync", "staging", "check", "--json")[0] == status
        assert flag_sync_was_run(cloud)[0] == ["check", *expected, "--json"]

    monkeypatch.delenv("AWS_REGION")
    cloud.logs("us-east-1").create_log_stream(logGroupName="/aws/lambda/redirect-staging-flags-sync", logStreamName="1")
    cloud.write_log("us-east-1", "/aws/lambda/redirect-staging-flags-sync", "302 flags written", 5)
    cloud.on_pause = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
    out = cloud.does("logs", "staging", "store")
    assert out[0] == "Following /aws/lambda/redirect-staging-flags-sync in us-east-1"
    assert out[1].endswith("us-east-1  302 flags written")


# ---- destroy ---------------------------------------------------------------------------------------------------------


def test_one_account_can_have_several_stores_and_environments(cloud):
    cloud.does("deploy", "--without-function")
    cloud.does("store-deploy")
    production = left(cloud)
    cloud.does("store-deploy", "staging")
    assert secret(cloud, WEBHOOK_SECRET) != secret(cloud, "/redirect/staging/webhook-secret")
    cloud.does("store-destroy", "staging", "--yes", "staging")
    assert left(cloud) == production
    cloud.does("store-destroy", "--yes", "production")
    assert left(cloud)["stacks"] == ["redirect-production"]
    assert f"redirect-production-packages-{ACCOUNT}" in cloud.buckets()
    assert parameters(cloud) == []


def test_a_store_with_readers_is_not_destroyed(cloud):
    """The deletion would fail at its policy, after the table and the function are deleted."""
    cloud.does("store-deploy")
    policy = cloud.stack(STACK).resources["ReadPolicy"].physical
    cloud.package()
    cloud.does("deploy", "--set", f"FlagStorePolicyArn={policy}")
    err = cloud.fails("store-destroy", "--yes", "production")
    assert "redirect-production-functionrole" in err
    assert "just deploy production --set FlagStorePolicyArn=" in err
    assert cloud.stack(STACK).state == "CREATE_COMPLETE"
    cloud.does("deploy", "--set", "FlagStorePolicyArn=")
    cloud.does("store-destroy", "--yes", "production")
    assert STACK not in cloud.aws.stacks


def test_a_store_that_the_relay_proxy_writes_is_not_destroyed(cloud):
    cloud.does("store-deploy")
    relay = standin.Stack("redirect-production-relay", 99)
    relay.state, relay.parameters = "CREATE_COMPLETE", {"TableName": STACK}
    cloud.aws.stacks[relay.name] = relay
    assert "delete-stack --region us-east-1 --stack-name redirect-production-relay" in cloud.fails(
        "store-destroy", "--yes", "production"
    )
    assert parameters(cloud) == [SDK_KEY, WEBHOOK_SECRET]
    relay.parameters = {"TableName": "another"}
    cloud.does("store-destroy", "--yes", "production")
    assert STACK not in cloud.aws.stacks


@pytest.mark.parametrize("operation", ["DeleteStack", "DeleteParameter", "DeleteObjects", "DeleteBucket"])
def test_an_interrupted_destroy_resumes(cloud, operation):
    cloud.does("store-deploy")
    cloud.aws.steps = 3
    interrupt_after(cloud, operation)
    status, _, err = cloud("store-destroy", "--yes", "production")
    assert status == 130
    assert "To resume: just store-destroy production" in err
    cloud.does("store-destroy", "--yes", "production")
    assert left(cloud) == NOTHING


def test_destroy_needs_confirmation_and_leaves_nothing(cloud, monkeypatch):
    cloud.does("store-deploy")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "staging")
    assert "nothing was changed" in cloud.fails("store-destroy")
    assert left(cloud) == ALL
    monkeypatch.setattr("builtins.input", lambda _: "production")
    cloud.does("store-destroy")
    assert left(cloud) == NOTHING
    assert cloud.lambda_.list_functions()["Functions"] == []
    out = cloud.does("store-destroy")
    assert f"There is no stack {STACK}." in out
