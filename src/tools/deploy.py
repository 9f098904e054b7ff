"""Brings the edge function and its site to AWS, and takes them away again.

One environment is one CloudFormation stack, redirect-ENV, and one private bucket for its packages; several live side by
side in an account. Every command may be interrupted and run again. None of them needs or sees the SDK key, except
doctor, which asks LaunchDarkly with it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import doctor
import logs
import pages
from aws import REGION, AwsError, DeployError, Wait, aws, json_file, pause, say
from distribution import Distribution
from stack import Stack, names

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "cloudformation" / "edge.yaml"
PACKAGE = ROOT / "target" / "edge" / "redirect.zip"
SITE = ROOT / "site"

# Parameters of the template that deploy itself sets.
MANAGED = {"PackageBucket", "PackageKey", "PackageSha256", "AttachFunction"}

# How often destroy asks whether the replicas are gone; that takes hours.
REPLICA_POLL_SECONDS = 60


class Package(NamedTuple):
    file: Path
    size: int
    sha256: bytes

    @property
    def key(self) -> str:
        """Named by its content, so that another package never overwrites the one that a stack refers to."""
        return f"packages/{self.sha256.hex()}.zip"


class Environment:
    def __init__(self, name: str) -> None:
        # Bucket names end at 63 characters, and take no capitals.
        if not re.fullmatch(r"[a-z](-?[a-z0-9]){0,19}", name):
            raise DeployError(
                f"{name!r} is no environment's name. Take up to 20 lower-case letters, digits and single hyphens, such "
                "as production or staging."
            )
        self.name = name
        self.stack = Stack(f"redirect-{name}")
        # The template gives the function the stack's name.
        self.function = self.stack.name

    def package_bucket(self, account: str) -> str:
        return f"{self.stack.name}-packages-{account}"

    def described(self) -> dict:
        found = self.stack.describe()
        if not found:
            raise DeployError(f"There is no stack {self.stack.name} in {REGION}. Make it with: just deploy {self.name}")
        return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deploy.py", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run, text in (
        ("deploy", deploy, "upload the package, deploy the stack, publish the site"),
        ("detach", detach, "take the function away from the viewers at once: everyone gets the current site"),
        ("destroy", destroy, "delete everything that deploy made"),
        ("url", url, "print the site's address"),
        ("logs", logs_of, "follow the function's logs in all Regions"),
        ("doctor", doctor_of, "tell whether key, flag, credentials, Region and quotas are right"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("environment", nargs="?", default="production", metavar="ENV")
        command.set_defaults(run=run)
        if name == "deploy":
            command.add_argument("--dry-run", action="store_true", help="show what would happen; needs no account")
            command.add_argument(
                "--without-function",
                action="store_true",
                help="bucket and CloudFront only; everyone gets the current site",
            )
            command.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="NAME=VALUE",
                help="a parameter of the template; it is kept",
            )
    options = parser.parse_args(arguments)
    try:
        options.run(Environment(options.environment), options)
    except DeployError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.command == "logs":
            return 0  # the way to end it
        again = f"just {options.command} {options.environment}"
        print(f"\nInterrupted. What AWS has begun goes on there; {again} takes it up again.", file=sys.stderr)
        return 130
    return 0


# ---- deploy ----------------------------------------------------------------------------------------------------------


def deploy(environment: Environment, options: argparse.Namespace) -> None:
    chosen = chosen_parameters(options.set)
    package = None if options.without_function else read_package(needed=not options.dry_run)
    local = pages.pages(SITE)
    if options.dry_run:
        dry_run(environment, chosen, package, local, options.without_function)
        return

    account = account_id()
    bucket = environment.package_bucket(account)
    say(f"Environment {environment.name}: stack {environment.stack.name} in {REGION}, account {account}")
    if options.without_function and "Function" in resources(environment):
        raise DeployError(
            f"The stack {environment.stack.name} has the function already; its replicas keep it from being removed now. "
            f"just detach {environment.name} takes it away from the viewers."
        )

    say(f"Package bucket {bucket}")
    secure_bucket(bucket, account)
    if package:
        upload(package, bucket, account)

    say(f"Stack {environment.stack.name}")
    values = {**chosen, **function_parameters(package, bucket)}
    if not environment.stack.apply(TEMPLATE, values):
        say("  nothing to change")
    outputs = environment.stack.outputs()
    if package and "DistributionId" in outputs and "Url" in outputs:
        reattach(environment, outputs["DistributionId"])

    if "SiteBucketName" in outputs:
        publish(local, outputs["SiteBucketName"], Distribution(outputs["DistributionId"]), pages.Pending(bucket))
    closing_words(environment, outputs, bool(package))


def chosen_parameters(settings: list[str]) -> dict[str, str]:
    known = [name for name in names(TEMPLATE, "Parameters") if name not in MANAGED]
    chosen = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            raise DeployError(f"--set {setting}: expected NAME=VALUE with NAME one of {', '.join(known)}.")
        chosen[name] = value
    return chosen


def read_package(needed: bool) -> Package | None:
    shown = PACKAGE.relative_to(ROOT)
    if not PACKAGE.exists():
        if needed:
            raise DeployError(f"{shown} is not there. Make it with: just package")
        return None
    try:
        with zipfile.ZipFile(PACKAGE) as archive:
            members = archive.namelist()
    except zipfile.BadZipFile:
        raise DeployError(f"{shown} is no zip file. Make it anew with: just package") from None
    if not {"redirect", "carrier.py"} <= set(members):
        raise DeployError(f"{shown} lacks the binary or its carrier. Make it anew with: just package")
    data = PACKAGE.read_bytes()
    return Package(PACKAGE, len(data), hashlib.sha256(data).digest())


def function_parameters(package: Package | None, bucket: str) -> dict[str, str]:
    if not package:
        return {}
    return {
        "PackageBucket": bucket,
        "PackageKey": package.key,
        "PackageSha256": base64.b64encode(package.sha256).decode(),
        "AttachFunction": "yes",
    }


def account_id() -> str:
    return aws("sts", "get-caller-identity")["Account"]


def resources(environment: Environment) -> dict[str, str]:
    return environment.stack.resources() if environment.stack.describe() else {}


def secure_bucket(bucket: str, account: str) -> None:
    """Makes the package bucket, and sets it right on every run: the one before may have been interrupted half-way.

    The package holds the SDK key. The owner is named in every call, so that a bucket of that name which someone else
    made never receives it: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """
    try:
        aws("s3api", "head-bucket", "--bucket", bucket, "--expected-bucket-owner", account)
    except AwsError as error:
        if error.code == "403":
            raise DeployError(
                f"The bucket {bucket} is not yours, or these credentials may not use it. Deploy under another "
                "environment's name, or ask for access to it."
            ) from None
        if error.code != "404":
            raise
        aws("s3api", "create-bucket", "--bucket", bucket)
        say("  created")
    common = ("--bucket", bucket, "--expected-bucket-owner", account)
    block = {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    encryption = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    ownership = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    arn = f"arn:aws:s3:::{bucket}"
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
    for operation, option, value in (
        ("put-public-access-block", "--public-access-block-configuration", block),
        ("put-bucket-encryption", "--server-side-encryption-configuration", encryption),
        ("put-bucket-ownership-controls", "--ownership-controls", ownership),
        ("put-bucket-policy", "--policy", policy),
    ):
        with json_file(value) as file:
            aws("s3api", operation, *common, option, file)


def upload(package: Package, bucket: str, account: str) -> None:
    common = ("--bucket", bucket, "--key", package.key, "--expected-bucket-owner", account)
    try:
        aws("s3api", "head-object", *common)
        say(f"  {package.key} is there already")
    except AwsError as error:
        if error.code != "404":
            raise
        # S3 compares the checksum with what arrives: an interrupted upload leaves no object.
        checksum = base64.b64encode(package.sha256).decode()
        aws("s3api", "put-object", *common, "--body", str(package.file), "--checksum-sha256", checksum)
        say(f"  uploaded {package.key} ({package.size:,} bytes)")


def reattach(environment: Environment, distribution_id: str) -> None:
    """CloudFormation compares templates, not the distribution: it does not see that `detach` took the function away."""
    if Distribution(distribution_id).is_attached(environment.function):
        return
    say("The distribution lacks the function, which was detached outside the stack; attaching it again")
    environment.stack.apply(None, {"AttachFunction": "no"})
    environment.stack.apply(None, {"AttachFunction": "yes"})


def publish(local: list[pages.Page], bucket: str, distribution: Distribution, pending: pages.Pending) -> None:
    say(f"Site bucket {bucket}")
    changes = pages.plan(local, bucket)
    stale = sorted({*changes.stale, *pending.read()})
    if stale:
        pending.write(stale)
    pages.publish(changes, bucket)
    if changes.same:
        say(f"  {changes.same} files unchanged")
    if stale:
        paths = pages.paths_of(stale)
        say(f"Invalidating {' '.join(paths)}")
        distribution.invalidate(paths)
        pending.clear()


def closing_words(environment: Environment, outputs: dict[str, str], with_function: bool) -> None:
    if "Url" not in outputs:
        say("The distribution is yours: give its behaviours, on viewer requests, these functions (first match first):")
        say(f"  {outputs['Behaviours']}")
        say(f"  redirect function    {outputs.get('FunctionVersionArn', '(not deployed)')}")
        say(f"  CloudFront Function  {outputs['CurrentSiteFunctionArn']}")
        return
    if "ExistingBucketStatement" in outputs:
        say("The bucket is yours: its policy must have this statement, and the site is yours to upload:")
        say(f"  {outputs['ExistingBucketStatement']}")
    if not with_function:
        say(f"Everyone gets the current site. just deploy {environment.name} attaches the function.")
    say(f"{outputs['Url']}")


def dry_run(
    environment: Environment, chosen: dict[str, str], package: Package | None, local: list[pages.Page], site_only: bool
) -> None:
    bucket = environment.package_bucket("ACCOUNT")
    say(f"Dry run: nothing is asked of AWS, nothing is changed. just deploy {environment.name} would, in {REGION}:")
    say(f"\n1. Make or secure the private bucket {bucket} (encrypted, no public access, TLS only)")
    if package:
        say(f"   and upload {PACKAGE.relative_to(ROOT)} ({package.size:,} bytes) as {package.key}")
    elif not site_only:
        say(f"   and upload {PACKAGE.relative_to(ROOT)}, once it is built and packed")
    say(f"\n2. Create or update the stack {environment.stack.name} from {TEMPLATE.relative_to(ROOT)}")
    values = {**chosen, **function_parameters(package, bucket)}
    for name, value in values.items():
        say(f"   parameter {name} = {value}")
    for name, kind, condition in template_resources():
        say(f"   {name:<20} {kind}" + (f"  (if {condition})" if condition else ""))
    if "ExistingBucketName" in chosen or "ExistingDistributionId" in chosen:
        say("\n3. Print what to add to the bucket or distribution that exists; its pages are left alone")
        return
    say("\n3. Upload what differs of site/, assets first, and delete what is gone from it:")
    for page in (*(page for page in local if not page.is_page), *(page for page in local if page.is_page)):
        say(f"   {page.key:<28} {page.content_type:<26} {page.cache_control}")
    say("\n4. Invalidate the paths whose content changed, wait for it, and print the address")


def template_resources() -> list[tuple[str, str, str]]:
    found = re.search(r"^Resources:\n(.*?)(?=^\S|\Z)", TEMPLATE.read_text(), re.MULTILINE | re.DOTALL)
    described = re.finditer(
        r"^  (?P<name>\w+):\n    Type: (?P<kind>\S+)\n(?:    Condition: (?P<condition>\w+)\n)?",
        found.group(1),
        re.MULTILINE,
    )
    return [(one["name"], one["kind"], one["condition"] or "") for one in described]


# ---- detach ----------------------------------------------------------------------------------------------------------


def detach(environment: Environment, _: argparse.Namespace) -> None:
    described = environment.described()
    if not detach_now(environment):
        say("The function is not attached to any behaviour.")
    # Straight through CloudFront was the fastest way, and works in any state of the stack. Now the stack is told too,
    # or its next update would attach the function again.
    values = environment.stack.parameters()
    if values.get("ExistingDistributionId") or values.get("AttachFunction") == "no" or not values.get("PackageBucket"):
        say("Everyone gets the current site.")
        return
    say(f"Stack {environment.stack.name}")
    try:
        environment.stack.apply(None, {"AttachFunction": "no"})
    except DeployError as error:
        raise DeployError(
            f"The viewers are off the function, but the stack still says otherwise ({described['StackStatus']}):\n{error}\n"
            f"Run just detach {environment.name} again when the stack is at rest."
        ) from None
    say(f"Everyone gets the current site. just deploy {environment.name} attaches the function again.")


def detach_now(environment: Environment) -> bool:
    """Removes the associations through CloudFront itself. True if there were any."""
    distribution_id = environment.stack.resources().get("Distribution") or environment.stack.parameters().get(
        "ExistingDistributionId"
    )
    if not distribution_id:
        return False
    distribution = Distribution(distribution_id)
    changed = distribution.detach(environment.function)
    if changed:
        say(f"Distribution {distribution_id}: {changed} behaviours no longer run the function")
        distribution.wait_until_deployed()
    return bool(changed)


# ---- destroy ---------------------------------------------------------------------------------------------------------


def destroy(environment: Environment, _: argparse.Namespace) -> None:
    account = account_id()
    confirm(environment, account)
    if environment.stack.settle():
        has = environment.stack.resources()
        kept = has.get("LogBucket")
        detach_now(environment)
        if "Function" in has:
            delete_function(environment)
        if "SiteBucket" in has:
            say(f"Emptying the site bucket {has['SiteBucket']}")
            empty_bucket(has["SiteBucket"])
        say(f"Deleting the stack {environment.stack.name}")
        environment.stack.delete()
        if kept:
            say(f"The bucket of the access logs stays: {kept}")
    else:
        say(f"There is no stack {environment.stack.name}.")
    delete_package_bucket(environment.package_bucket(account), account)
    say(
        f"Nothing is left of {environment.name} but its logs: /aws/lambda/us-east-1.{environment.function} in the Regions "
        "near which viewers were."
    )


def confirm(environment: Environment, account: str) -> None:
    """Asks a person; a script has said what it wants."""
    if not sys.stdin.isatty():
        return
    say(f"This deletes the site, the function and the packages of {environment.name} in the account {account}.")
    if input(f"Type {environment.name} to go on: ").strip() != environment.name:
        raise DeployError("Not confirmed; nothing was changed.")


def delete_function(environment: Environment) -> None:
    """Lambda deletes a function only when CloudFront has removed its replicas.

    https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-edge-delete-replicas.html
    """
    say(f"Deleting the function {environment.function}")
    wait = Wait()
    first = True
    while True:
        try:
            wait.ask("lambda", "delete-function", "--function-name", environment.function)
            say("  deleted")
            return
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                say("  it is gone already")
                return
            if "replicated function" not in error.detail:
                raise
        if first:
            say("  CloudFront still has replicas of it near the viewers. It removes them some hours after the function")
            say("  was detached; nobody can hurry it, and nothing is paid for meanwhile. Interrupting is safe: just")
            say(f"  destroy {environment.name} takes it up again, also tomorrow.")
            first = False
        say(f"  {wait.elapsed()} waiting for the replicas to be removed")
        pause(REPLICA_POLL_SECONDS)


def empty_bucket(bucket: str) -> None:
    try:
        aws("s3", "rm", f"s3://{bucket}", "--recursive", "--only-show-errors")
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise


def delete_package_bucket(bucket: str, account: str) -> None:
    try:
        aws("s3api", "head-bucket", "--bucket", bucket, "--expected-bucket-owner", account)
    except AwsError as error:
        if error.code == "404":
            return
        raise
    say(f"Deleting the package bucket {bucket}")
    empty_bucket(bucket)
    aws("s3api", "delete-bucket", "--bucket", bucket, "--expected-bucket-owner", account)


# ---- url, logs, doctor -----------------------------------------------------------------------------------------------


def url(environment: Environment, _: argparse.Namespace) -> None:
    environment.described()
    outputs = environment.stack.outputs()
    if "Url" not in outputs:
        raise DeployError(
            f"The stack {environment.stack.name} has no distribution of its own; the address is your own one's."
        )
    say(outputs["Url"])


def logs_of(environment: Environment, _: argparse.Namespace) -> None:
    environment.described()
    logs.follow(environment.function)


def doctor_of(environment: Environment, _: argparse.Namespace) -> None:
    doctor.examine(environment.stack, environment.function, ROOT, PACKAGE)


if __name__ == "__main__":
    sys.exit(main())
