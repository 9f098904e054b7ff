"""What the tests of package, deploy, detach and destroy share: a small project, AWS on this machine, a record of all."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src" / "tools"))

import aws  # noqa: E402
import deploy  # noqa: E402
import distribution  # noqa: E402
import forked_cli  # noqa: E402
import logs  # noqa: E402
import stack  # noqa: E402
from standin import Standin  # noqa: E402

# A key of the right shape that no output, no command line and no request may ever show.
CANARY = "sdk-c0ffee00-0000-4000-8000-00000000cafe"


# ---- AWS on this machine ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def moto():
    # moto heeds no Condition, so a policy that denies all but TLS would deny everything; a test reads the policy instead.
    FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def standin(moto):
    server = Standin(moto)
    yield server
    server.stop()


# ---- A project and its environment -----------------------------------------------------------------------------------


class Cloud:
    """Runs deploy.py against AWS on this machine, and keeps what was run and what was said."""

    def __init__(self, project, moto, standin, capsys):
        self.project, self.aws, self.capsys = project, standin, capsys
        self.commands, self.record, self.pauses = [], [], 0
        self.on_pause = lambda number: None
        self.run_cli = forked_cli.run
        arguments = dict(
            endpoint_url=moto, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        self.s3 = boto3.client("s3", **arguments)
        self.lambda_ = boto3.client("lambda", **arguments)
        self.iam = boto3.client("iam", **arguments)
        self.logs = lambda region: boto3.client("logs", **{**arguments, "region_name": region})

    def __call__(self, *arguments):
        """The exit status, the lines on stdout, the text on stderr."""
        self.capsys.readouterr()
        status = deploy.main(list(arguments))
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
        self.commands.append(command[1:])
        self.record.append(json.dumps(command))
        self.record += [Path(word[7:]).read_text() for word in command if word.startswith("file://")]
        done = self.run_cli(command, env=env, **options)
        self.record += [done.stdout, done.stderr]
        return done

    def pause(self, _):
        self.pauses += 1
        self.on_pause(self.pauses)

    def package(self, content=b"first"):
        path = self.project / "target/edge/redirect.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("redirect", CANARY.encode() + content)
            archive.writestr("carrier.py", "")
        return path.read_bytes()

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


@pytest.fixture
def project(tmp_path):
    """The project's own template and settings, and a site that has one of everything."""
    for name in ("cloudformation/edge.yaml", "redirect.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("index.html", "404.html", "style.css", "app.0a1b2c3d.js", "docs/index.html", "beta/index.html"):
        page = tmp_path / "site" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{name}, first")
    (tmp_path / "site" / ".DS_Store").write_text("a system's own")
    return tmp_path


@pytest.fixture
def cloud(project, moto, standin, monkeypatch, capsys):
    urlopen(Request(f"{moto}/moto-api/reset", method="POST")).close()
    standin.reset()
    for name in [name for name in os.environ if name.startswith(("AWS_", "LAUNCHDARKLY_", "REDIRECT_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": moto,
        "AWS_ENDPOINT_URL_CLOUDFORMATION": standin.url,
        "AWS_ENDPOINT_URL_CLOUDFRONT": standin.url,
        "AWS_ENDPOINT_URL_LAMBDA": standin.url,
        "LAUNCHDARKLY_SDK_KEY": CANARY,
    }.items():
        monkeypatch.setenv(name, value)
    made = Cloud(project, moto, standin, capsys)
    made.package()
    monkeypatch.setattr(deploy, "ROOT", project)
    monkeypatch.setattr(deploy, "TEMPLATE", project / "cloudformation/edge.yaml")
    monkeypatch.setattr(deploy, "PACKAGE", project / "target/edge/redirect.zip")
    monkeypatch.setattr(deploy, "SITE", project / "site")
    monkeypatch.setattr(aws.subprocess, "run", made.run)
    for module in (aws, deploy, distribution, logs, stack):
        monkeypatch.setattr(module, "pause", made.pause)
    yield made
    monkeypatch.undo()
    everything = "\n".join(made.record + standin.requests)
    assert CANARY not in everything, "the SDK key was shown"
