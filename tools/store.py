"""Deploys the flag store and flag-sync to AWS, beside the edge function of the same environment.

One flag store is one stack, redirect-ENV-flags, a table of the same name, and one private bucket for its packages. The
SDK key and the webhook's secret are sent only to SSM Parameter Store, never to a command line, a template or the
screen. If they are kept in another place, they are not touched.
"""

import argparse
import os
import re
import secrets
import subprocess
from pathlib import Path

import bucket
import logs
import recipe
import stack
from aws import REGION, Tolerating, account_id, client
from bucket import Package, PackageBucket
from environment import Environment
from failure import Failure
from launchdarkly import KEY_TAG, fingerprint, has_key, sdk_key
from shell_secrets import KEY_VARIABLE
from stack import Stack
from template import Resolved, load
from terminal import say

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "cloudformation" / "flag-store.yaml"
PACKAGE = ROOT / "target" / "lambda" / "flag-sync" / "bootstrap.zip"
BINARY = ROOT / "target" / "release" / "flag-sync"

# Parameters of the template that only deploy sets.
MANAGED = {"PackageBucket", "PackageKey"}

# Where a secret can be stored. flag-sync reads it in its own Region.
PLACE = re.compile(
    rf"/[A-Za-z0-9/._-]+|arn:[a-z-]+:secretsmanager:{REGION}:\d{{12}}:secret:[A-Za-z0-9/_+=.@-]+-[A-Za-z0-9]{{6}}"
)


class FlagStore:
    def __init__(self, environment: Environment) -> None:
        self.name = environment.name
        self.stack = Stack(f"{environment.stack.name}-flags", f"just store-destroy {self.name}")
        # Where this tool stores the secrets, unless a setting has another place.
        self.sdk_key = f"/redirect/{self.name}/sdk-key"
        self.webhook_secret = f"/redirect/{self.name}/webhook-secret"

    def places(self, *settings: dict[str, str]) -> dict[str, str]:
        """Where the secrets are: in this tool's parameters, or where a setting says; the last setting wins."""
        own = {"SdkKeyParameter": self.sdk_key, "WebhookSecretParameter": self.webhook_secret}
        return own | {name: values[name] for values in settings for name in own if name in values}

    def described(self) -> tuple[dict[str, str], dict[str, str]]:
        """The outputs and the parameters of the stack."""
        outputs = self.stack.outputs()
        if "WebhookUrl" not in outputs:
            found = self.stack.describe()
            state = f"is in the state {found['StackStatus']}" if found else "does not exist"
            raise Failure(
                f"There is no flag store {self.name}: the stack {self.stack.name} in {REGION} {state}. Create it: "
                f"just store-deploy {self.name}"
            )
        return outputs, self.stack.parameters()


# ---- deploy ----------------------------------------------------------------------------------------------------------


def deploy(environment: Environment, options: argparse.Namespace) -> None:
    store = FlagStore(environment)
    chosen = stack.chosen_parameters(TEMPLATE, MANAGED, options.set)
    tags = stack.given_tags(options.tag)
    for name, place in store.places(chosen).items():
        if not PLACE.fullmatch(place):
            raise Failure(
                f"--set {name}=...: expected the name of an SSM parameter, which begins with a slash, or the whole ARN "
                f"of a secret in Secrets Manager in {REGION}. The value is not shown: it may be the secret itself."
            )
    key = sdk_key() if has_key() else ""
    if options.dry_run:
        dry_run(store, chosen, bool(key))
        return

    # Check everything possible before the build, which takes minutes.
    account = account_id()
    say(f"Flag store {store.name}: stack {store.stack.name} in {REGION}, account {account}")
    # Only a stack at rest has the parameters that the next one keeps.
    kept = store.stack.parameters() if store.stack.ready() else {}
    places = store.places(kept, chosen)
    if places["SdkKeyParameter"] == store.sdk_key and not key and not has_parameter(store.sdk_key):
        raise Failure(f"The SSM parameter {store.sdk_key} is missing. Export {KEY_VARIABLE} and run this again.")
    if key and places["SdkKeyParameter"] == store.sdk_key:
        store.stack.refuse_another_key(key, options.new_key)
        tags[KEY_TAG] = fingerprint(key)
    recipe.run("_flag-sync")
    package = Package.of(PACKAGE)

    keep_secrets(store, places, key)
    packages = PackageBucket(store.stack, account)
    packages.secure()
    packages.upload(package)
    say(f"Stack {store.stack.name}")
    values = {**chosen, **places, "PackageBucket": packages.name, "PackageKey": package.key}
    if not store.stack.apply(TEMPLATE, values, tags, environment.confirming(options.confirm)):
        say("  nothing to change")
    closing_words(store)


def keep_secrets(store: FlagStore, places: dict[str, str], key: str) -> None:
    """Stores this shell's SDK key, if there is one; makes the webhook's secret once."""
    if places["SdkKeyParameter"] != store.sdk_key:
        say(f"The SDK key is kept in {places['SdkKeyParameter']}" + (f"; {KEY_VARIABLE} is not used" if key else ""))
    elif key:
        put_secret(store.sdk_key, key, overwrite=True)
    if places["WebhookSecretParameter"] != store.webhook_secret:
        say(f"The webhook's secret is kept in {places['WebhookSecretParameter']}")
    elif not has_parameter(store.webhook_secret):
        put_secret(store.webhook_secret, secrets.token_hex(32), overwrite=False)


def has_parameter(name: str) -> bool:
    """Does not decrypt it."""
    with Tolerating("ParameterNotFound"):
        client("ssm").get_parameter(Name=name)
        return True
    return False


def secret_in(place: str) -> str:
    if place.startswith("arn:"):
        return client("secretsmanager").get_secret_value(SecretId=place)["SecretString"]
    return client("ssm").get_parameter(Name=place, WithDecryption=True)["Parameter"]["Value"]


def put_secret(name: str, value: str, overwrite: bool) -> None:
    # An interrupted run may have written it while SSM does not return it yet.
    with Tolerating("ParameterAlreadyExists"):
        client("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=overwrite)
    say(f"Secret {name} is kept in SSM Parameter Store")


def closing_words(store: FlagStore) -> None:
    outputs, parameters = store.described()
    place = parameters["WebhookSecretParameter"]
    if place.startswith("arn:"):
        reading = f"secretsmanager get-secret-value --region {REGION} --secret-id {place} --query SecretString"
    else:
        reading = f"ssm get-parameter --region {REGION} --with-decryption --name {place} --query Parameter.Value"
    say(f"\nTable    {outputs['TableName']}, filled within minutes; to fill it now: just sync {store.name}")
    say(f"Policy   {outputs['ReadPolicyArn']}, for just deploy {store.name} --set FlagStorePolicyArn=...")
    say(f"Webhook  {outputs['WebhookUrl']}, signed with the secret that this prints:")
    say(f"  aws {reading} --output text")
    say("docs/flag-store.md lists what to enter in LaunchDarkly.")


def dry_run(store: FlagStore, chosen: dict[str, str], has_key: bool) -> None:
    package = Package.of(PACKAGE) if PACKAGE.exists() else None
    places = store.places(chosen)
    shell = "this shell's, as a SecureString in SSM Parameter Store"
    own = {
        "SdkKeyParameter": shell if has_key else f"must exist, because {KEY_VARIABLE} is not set",
        "WebhookSecretParameter": "a new SecureString, unless it exists",
    }
    say(f"Dry run: does not call AWS, changes nothing. just store-deploy {store.name} would, in {REGION}:")
    say("\n1. Store the secrets; places that an earlier --set chose are kept")
    for name, label in (("SdkKeyParameter", "SDK key"), ("WebhookSecretParameter", "webhook's secret")):
        is_own = places[name] == store.places()[name]
        say(f"   {label:<17} {places[name]}{': ' + own[name] if is_own else ', not changed'}")
    say(f"\n2. {bucket.plan(store.stack, PACKAGE.relative_to(ROOT), package)}")
    values = {**chosen, **places, "PackageBucket": PackageBucket(store.stack, "ACCOUNT").name}
    values["PackageKey"] = package.key if package else "packages/HASH.zip"
    resolved = Resolved(load(TEMPLATE.read_text()), values, store.stack.name)
    say(f"\n3. {stack.plan(resolved, TEMPLATE.relative_to(ROOT), values)}")
    say("\n4. Print the table, the policy for functions that read it, and the webhook's address")


# ---- sync, url, logs -------------------------------------------------------------------------------------------------


def sync(environment: Environment, options: argparse.Namespace) -> int:
    """Runs the binary on this machine instead of the deployed function, so that the user sees the result."""
    store = FlagStore(environment)
    outputs, parameters = store.described()
    if options.action == "once" and KEY_TAG in store.stack.tags():
        key = secret_in(parameters["SdkKeyParameter"])
        store.stack.refuse_another_key(key, options.new_key)
        if options.new_key:
            store.stack.apply(None, {}, {KEY_TAG: fingerprint(key)})
    recipe.run("_flag-sync-here")
    command = [
        str(BINARY), options.action,
        "--table", outputs["TableName"],
        "--prefix", parameters["Prefix"],
        "--sdk-key-parameter", parameters["SdkKeyParameter"],
        "--base-uri", parameters["LaunchDarklyBaseUri"],
        *(["--json"] if options.json else []),
    ]  # fmt: skip
    # The arguments have the deployed function's settings; this shell's must not override them.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("FLAG_SYNC_")}
    return subprocess.run(command, env={**surroundings, "AWS_REGION": REGION}, check=False).returncode


def url(environment: Environment, _: argparse.Namespace) -> None:
    outputs, _parameters = FlagStore(environment).described()
    say(outputs["WebhookUrl"])


def follow_logs(environment: Environment, _: argparse.Namespace) -> None:
    outputs, _parameters = FlagStore(environment).described()
    logs.follow(outputs["LogGroupName"], lambda: [REGION])


# ---- destroy ---------------------------------------------------------------------------------------------------------


def destroy(environment: Environment, options: argparse.Namespace) -> None:
    store = FlagStore(environment)
    account = account_id()
    environment.confirm(
        f"This deletes table, flag-sync, webhook and secrets of the flag store {store.name} in the account {account} "
        f"(in a script, confirm with --yes {store.name}).",
        options.yes,
    )
    refuse_while_relayed(store)
    if store.stack.settle():
        refuse_while_read(store)
        say(f"Deleting the stack {store.stack.name}")
        store.stack.delete()
    else:
        say(f"There is no stack {store.stack.name}.")
    for name in (store.sdk_key, store.webhook_secret):
        delete_secret(name)
    PackageBucket(store.stack, account).delete()
    say(f"The flag store {store.name} is deleted. Delete the webhook in LaunchDarkly too.")


def refuse_while_relayed(store: FlagStore) -> None:
    """In docs/relay-proxy.md the stack has this name, and uses the store's table and key."""
    relay = f"redirect-{store.name}-relay"
    if Stack(relay, "").parameters().get("TableName") == store.stack.name:
        raise Failure(
            f"The Relay Proxy of the stack {relay} writes the table and needs the key. Delete it first: "
            f"aws cloudformation delete-stack --region {REGION} --stack-name {relay}"
        )


def refuse_while_read(store: FlagStore) -> None:
    """IAM does not delete an attached policy, and CloudFormation would fail only after it has deleted the table."""
    policy = store.stack.resources().get("ReadPolicy")
    kinds = (("PolicyRoles", "RoleName"), ("PolicyUsers", "UserName"), ("PolicyGroups", "GroupName"))
    readers: list[str] = []
    if policy:
        with Tolerating("NoSuchEntity"):  # An earlier deletion has already deleted it.
            found = client("iam").list_entities_for_policy(PolicyArn=policy)
            readers = [entry[name] for kind, name in kinds for entry in found[kind]]
    if readers:
        raise Failure(
            f"The flag store {store.name} is still used by {', '.join(readers)}. Give those functions another source "
            f"first, then detach the policy {policy} from them; for the edge function: just deploy {store.name} "
            "--set FlagStorePolicyArn="
        )


def delete_secret(name: str) -> None:
    with Tolerating("ParameterNotFound"):
        client("ssm").delete_parameter(Name=name)
        say(f"Deleted the SSM parameter {name}")
