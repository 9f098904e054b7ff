"""What the tests of package, deploy, detach and destroy stand on."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import boto3

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import command_line  # noqa: E402
import forked_cli  # noqa: E402

# A key of the right shape that no output, no command line and no request may ever show.
CANARY = "sdk-c0ffee00-0000-4000-8000-00000000cafe"


class Cloud:
    """Runs the commands against AWS on this machine, and keeps what was run and what was said."""

    def __init__(self, project, moto, standin, capsys):
        self.project, self.aws, self.capsys = project, standin, capsys
        self.commands, self.record, self.pauses = [], [], 0
        self.on_pause = lambda number: None
        self.run_cli = forked_cli.run
        arguments = dict(endpoint_url=moto, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        self.s3 = boto3.client("s3", **arguments)
        self.lambda_ = boto3.client("lambda", **arguments)
        self.iam = boto3.client("iam", **arguments)
        self.ssm = boto3.client("ssm", **arguments)
        self.dynamodb = boto3.client("dynamodb", **arguments)
        self.logs = lambda region: boto3.client("logs", **{**arguments, "region_name": region})

    def __call__(self, *arguments):
        """The exit status, the lines on stdout, the text on stderr."""
        self.capsys.readouterr()
        status = command_line.main(list(arguments))
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

    def run(self, command, env, **options):
        assert "LAUNCHDARKLY_SDK_KEY" not in env
        self.record.append(json.dumps(command))
        if Path(command[0]).name != "aws":
            with subprocess.Popen(command, env=env) as process:
                return subprocess.CompletedProcess(command, process.wait())
        self.commands.append(command[1:])
        # The stand-in keeps what goes to SSM.
        if command[1:3] != ["ssm", "put-parameter"]:
            self.record += [Path(word[7:]).read_text() for word in command if word.startswith("file://")]
        done = self.run_cli(command, env=env, **options)
        self.record += [done.stdout, done.stderr]
        return done

    def pause(self, _):
        self.pauses += 1
        assert self.pauses < 200, "it waits for something that never comes"
        self.on_pause(self.pauses)

    def package(self, content=b"first"):
        path = self.project / "target/edge/redirect.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("redirect", CANARY.encode() + content)
            archive.writestr("carrier.py", "")
        return path.read_bytes()

    def write_log(self, region, group, message, seconds_ago):
        """Into the stream of that group that is named 1."""
        stamp = int((time.time() - seconds_ago) * 1000)
        self.logs(region).put_log_events(
            logGroupName=group, logStreamName="1", logEvents=[{"timestamp": stamp, "message": message}]
        )

    # ---- What is there now

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
