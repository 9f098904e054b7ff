"""Brings the flag store and flag-sync to AWS, beside the edge function of the same environment.

One environment is one stack, redirect-ENV-flags, whose name is the table's too. Every command may be run again. The
SDK key and the webhook's secret go from here to SSM Parameter Store and nowhere else: not to a command line, a
template or the screen.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import subprocess
import sys

from aws import REGION, AwsError, DeployError, aws, json_file, program, say
from deploy import ROOT, Environment, Package, account_id, secure_bucket, upload
from launchdarkly import KEY_VARIABLE
from stack import Stack, names

TEMPLATE = ROOT / "cloudformation" / "flag-store.yaml"
PACKAGE = ROOT / "target" / "lambda" / "flag-sync" / "bootstrap.zip"

# Parameters of the template that deploy itself sets.
MANAGED = {"PackageBucket", "PackageKey", "SdkKeyParameter", "WebhookSecretParameter"}


class FlagStore:
    def __init__(self, name: str) -> None:
        self.environment = Environment(name)
        self.name = name
        self.stack = Stack(f"{self.environment.stack.name}-flags")
        self.sdk_key = f"/redirect/{name}/sdk-key"
        self.webhook_secret = f"/redirect/{name}/webhook-secret"

    def outputs(self) -> dict[str, str]:
        found = self.stack.outputs()
        if "WebhookUrl" not in found:
            raise DeployError(
                f"There is no stack {self.stack.name} in {REGION}. Make it with: just store-deploy {self.name}"
            )
        return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="store.py", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, text in (
        ("deploy", deploy, "upload flag-sync, deploy table and function"),
        ("sync", sync, "write now what differs; further arguments go to flag-sync"),
        ("url", url, "print the webhook's address"),
        ("logs", logs, "follow flag-sync's log"),
        ("destroy", destroy, "delete table, function and parameters"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("environment", nargs="?", default="production", metavar="ENV")
        command.set_defaults(run=run)
        if name == "deploy":
            command.add_argument(
                "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the template; it is kept"
            )
        if name == "sync":
            command.add_argument("action", nargs="?", default="once", choices=("once", "check"))
    options = parser.parse_args(arguments)
    try:
        return options.run(FlagStore(options.environment), options) or 0
    except DeployError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def deploy(store: FlagStore, options: argparse.Namespace) -> None:
    if not PACKAGE.exists():
        raise DeployError(f"{PACKAGE.relative_to(ROOT)} is not there. just store-deploy builds it first.")
    chosen = chosen_parameters(options.set)
    account = account_id()
    say(f"Flag store {store.name}: stack {store.stack.name} in {REGION}, account {account}")
    keep_secrets(store)

    data = PACKAGE.read_bytes()
    package = Package(PACKAGE, len(data), hashlib.sha256(data).digest())
    bucket = store.environment.package_bucket(account)
    say(f"Package bucket {bucket}")
    secure_bucket(bucket, account)
    upload(package, bucket, account)

    say(f"Stack {store.stack.name}")
    values = {
        **chosen,
        "PackageBucket": bucket,
        "PackageKey": package.key,
        "SdkKeyParameter": store.sdk_key,
        "WebhookSecretParameter": store.webhook_secret,
    }
    if not store.stack.apply(TEMPLATE, values):
        say("  nothing to change")
    outputs = store.outputs()
    say(f"\nTable    {outputs['TableName']}, filled within minutes, or at once by: just sync {store.name}")
    say(f"Policy   {outputs['ReadPolicyArn']}, for just deploy {store.name} --set FlagStorePolicyArn=...")
    say(f"Webhook  {outputs['WebhookUrl']}, signed with the secret that this prints:")
    say(f"  aws ssm get-parameter --region {REGION} --with-decryption --name {store.webhook_secret} --query Parameter.Value")
    say("docs/flag-store.md says what to enter in LaunchDarkly.")


def chosen_parameters(settings: list[str]) -> dict[str, str]:
    known = [name for name in names(TEMPLATE, "Parameters") if name not in MANAGED]
    chosen = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            raise DeployError(f"--set {setting}: expected NAME=VALUE with NAME one of {', '.join(known)}.")
        chosen[name] = value
    return chosen


def keep_secrets(store: FlagStore) -> None:
    """The SDK key is that of this shell, if there is one; the webhook's secret is made once."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key:
        put_secret(store.sdk_key, key, overwrite=True)
    elif not has_parameter(store.sdk_key):
        raise DeployError(f"The SSM parameter {store.sdk_key} is not there. Export {KEY_VARIABLE} and run this again.")
    if not has_parameter(store.webhook_secret):
        put_secret(store.webhook_secret, secrets.token_hex(32), overwrite=False)


def has_parameter(name: str) -> bool:
    with json_file([{"Key": "Name", "Values": [name]}]) as filters:
        found = aws("ssm", "describe-parameters", "--parameter-filters", filters)
    return bool(found["Parameters"])


def put_secret(name: str, value: str, overwrite: bool) -> None:
    request = {"Name": name, "Value": value, "Type": "SecureString", "Overwrite": overwrite}
    with json_file(request) as file:
        aws("ssm", "put-parameter", "--cli-input-json", file)
    say(f"Secret {name} is kept in SSM Parameter Store")


def sync(store: FlagStore, options: argparse.Namespace) -> int:
    """The binary on this machine does the work that the deployed function does, so that a person sees it."""
    outputs = store.outputs()
    binary = ROOT / "target" / "release" / "flag-sync"
    parameters = store.stack.parameters()
    command = [binary, options.action, "--table", outputs["TableName"], "--prefix", parameters.get("Prefix", "")]
    command += ["--sdk-key-parameter", store.sdk_key, "--base-uri", parameters["LaunchDarklyBaseUri"]]
    return subprocess.run(command, env={**os.environ, "AWS_REGION": REGION}, check=False).returncode


def url(store: FlagStore, _: argparse.Namespace) -> None:
    say(store.outputs()["WebhookUrl"])


def logs(store: FlagStore, _: argparse.Namespace) -> int:
    command = [program(), "logs", "tail", store.outputs()["LogGroupName"], "--follow", "--region", REGION]
    return subprocess.run(command, check=False).returncode


def destroy(store: FlagStore, _: argparse.Namespace) -> None:
    if store.stack.settle():
        say(f"Deleting the stack {store.stack.name}")
        store.stack.delete()
    for name in (store.sdk_key, store.webhook_secret):
        try:
            aws("ssm", "delete-parameter", "--name", name)
        except AwsError as error:
            if error.code != "ParameterNotFound":
                raise
    say(f"Nothing is left of the flag store {store.name} but its package, which just destroy {store.name} deletes.")


if __name__ == "__main__":
    sys.exit(main())
