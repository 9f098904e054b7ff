"""The harness of the tests of the commands."""

import io
import json
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import boto3
import botocore.loaders
import botocore.session
from botocore.awsrequest import AWSResponse, HeadersDict

import aws
import command_line
import shell_secrets
from permissions import needed

ROOT = Path(__file__).resolve().parents[2]

# A valid key that no output, no command line and no request may contain.
CANARY = "sdk-c0ffee00-0000-4000-8000-00000000cafe"

# A preview token, which is just as secret.
TOKEN = "preview-canary-0123456789"

# Shared by all sessions: a first call spends most of its time reading AWS's models.
MODELS = botocore.loaders.create_loader()

REAL_SESSION, REAL_SLEEP = boto3.Session, time.sleep


class Cloud:
    """Runs the commands against the local AWS, and records their calls and their output."""

    def __init__(self, project, moto, standin, capsys):
        self.project, self.aws, self.capsys = project, standin, capsys
        self.calls = []  # operation and parameters of each call to AWS
        self.surroundings: dict[str, str] = {}
        self.policy = ""  # the policy of the running command
        self.permissions = set()  # permissions that the calls needed, each with the policy that should grant it
        self.last_stack = ""
        standin.on_call = self.note_permissions
        self.recipes = []  # the recipes that were run, each with the SDK key it saw
        self.tokens = []  # the preview tokens that they saw
        self.begun = 0  # the number of calls before the last command
        self.record, self.pauses = [], 0
        self.on_pause = lambda number: None
        self.before_call = self.after_call = lambda operation: None
        # Status and code of AWS's answer to an operation, or None to let it through.
        self.refusal: Callable[[str], tuple[int, str] | None] = lambda operation: None
        arguments = {
            "endpoint_url": moto,
            "region_name": "us-east-1",
            "aws_access_key_id": "a",
            "aws_secret_access_key": "b",
        }
        session = new_session()
        services = ("s3", "lambda", "iam", "ssm", "dynamodb", "secretsmanager", "cloudwatch")
        self.s3, self.lambda_, self.iam, self.ssm, self.dynamodb, self.secrets, self.cloudwatch = (
            session.client(service, **arguments) for service in services
        )
        self.logs = lambda region: session.client("logs", **{**arguments, "region_name": region})

    def __call__(self, *arguments):
        """The exit status, the lines on stdout, the text on stderr."""
        self.capsys.readouterr()
        self.begun = len(self.calls)
        is_store = arguments[0] in ("store-deploy", "store-destroy", "sync") or "store" in arguments
        self.policy = "store-deployer-policy.json" if is_store else "deployer-policy.json"
        surroundings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        if surroundings != self.surroundings:  # making clients is slow
            self.surroundings = surroundings
            aws.session.cache_clear()
            aws.client.cache_clear()
        with (
            patch.dict(os.environ),
            patch.dict(shell_secrets._hidden, clear=True),
            patch.object(boto3, "Session", self.session),
        ):
            try:
                status = command_line.main(list(arguments))
            finally:
                self.policy = ""
        out, err = self.capsys.readouterr()
        self.record += [out, err]
        return status, out.splitlines(), err

    def does(self, *arguments):
        status, out, err = self(*arguments)
        assert status == 0, err
        return out

    def fails(self, *arguments):
        status, _, err = self(*arguments)
        assert status == 1
        return err

    # ---- The machine as the commands see it

    def session(self, **options):
        """A session of boto3 that records its calls."""
        made = new_session(**options)
        made.events.register("provide-client-params", self.note)
        made.events.register("after-call", lambda model, **_: self.after_call(model.name))
        made.events.register("before-send", self.refuse)
        return made

    def refuse(self, request, event_name, **_):
        """Answers instead of AWS, so that botocore itself handles the answer, in the form of each protocol."""
        refused = self.refusal(event_name.rpartition(".")[2])
        if not refused:
            return None
        status, code = refused
        json_body = {"__type": code, "message": "refused"}
        xml_body = f"<Error><Code>{code}</Code><Message>refused</Message></Error>"
        is_s3, is_json = ".s3." in event_name, "X-Amz-Target" in request.headers or ".lambda." in event_name
        body = json.dumps(json_body) if is_json else xml_body if is_s3 else f"<ErrorResponse>{xml_body}</ErrorResponse>"
        headers = HeadersDict({"x-amzn-errortype": code})
        return AWSResponse(request.url, status, headers, Body(b"" if request.method == "HEAD" else body.encode()))

    def note_permissions(self, params, model, context, **_):
        """For the commands' own calls, and for those that CloudFormation makes for them."""
        if self.policy:
            # The name can be an ARN.
            self.last_stack = params.get("StackName", self.last_stack).split(":stack/")[-1].split("/")[0]
            service, region = model.service_model.service_name, context["client_region"]
            calls = needed(service, model.name, params, region, model.http["method"], self.last_stack)
            self.permissions |= {(self.policy, call) for call in calls}

    def note(self, params, model, context, **_):
        self.before_call(model.name)
        self.note_permissions(params, model, context)
        self.calls.append((model.name, params))
        # The stand-in records what is sent to SSM.
        if model.name != "PutParameter":
            self.record.append(f"{model.name} {json.dumps(params, default=str)}")

    def operations(self):
        return [operation for operation, _ in self.calls]

    def sleep(self, seconds):
        """Replaces time.sleep: the tools' waits take no time, and a test can act during them."""
        if threading.current_thread() is not threading.main_thread():
            REAL_SLEEP(min(seconds, 0.01))
            return
        self.pauses += 1
        assert self.pauses < 200, "it waits for something that never comes"
        self.on_pause(self.pauses)

    def run_recipe(self, name, key="", token=""):
        """Replaces the builds, whose results already exist."""
        self.recipes.append((name, key))
        self.tokens.append(token)

    # ---- Files and resources

    def package(self, content=b"first"):
        path = self.project / "target/edge/redirect.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("redirect", CANARY.encode() + content)
            archive.writestr("carrier.py", "")
        return path.read_bytes()

    def flag_sync_package(self, content=b"first"):
        path = self.project / "target/lambda/flag-sync/bootstrap.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_log(self, region, group, message, seconds_ago):
        """Writes to the stream `1` of that group."""
        stamp = int((time.time() - seconds_ago) * 1000)
        self.logs(region).put_log_events(
            logGroupName=group, logStreamName="1", logEvents=[{"timestamp": stamp, "message": message}]
        )

    def make_table(self, region, name):
        """Creates a table instead of a replica, which moto does not support."""
        session = new_session()
        client = session.client("dynamodb", region_name=region, aws_access_key_id="a", aws_secret_access_key="b")
        client.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "namespace", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "namespace", "KeyType": "HASH"}],
        )

    def set_paths(self, current, beta):
        """In the project's redirect.toml."""
        file = self.project / "redirect.toml"
        text = re.sub(r'^current_path = ".*"', f'current_path = "{current}"', file.read_text(), flags=re.MULTILINE)
        file.write_text(re.sub(r'^beta_path = ".*"', f'beta_path = "{beta}"', text, flags=re.MULTILINE))

    def buckets(self):
        return sorted(bucket["Name"] for bucket in self.s3.list_buckets()["Buckets"])

    def bucket(self, part):
        return next(name for name in self.buckets() if part in name)

    def keys(self, bucket):
        return [entry["Key"] for entry in self.s3.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def config(self):
        (found,) = self.aws.distributions.values()
        return found["config"]

    def stack(self, name="redirect-production"):
        return self.aws.stacks[name]


class Body(io.BytesIO):
    def stream(self, **_):
        yield self.read()


def new_session(**options):
    core = botocore.session.get_session()
    core.register_component("data_loader", MODELS)
    return REAL_SESSION(botocore_session=core, **options)
