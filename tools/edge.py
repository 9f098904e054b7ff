"""Deploys the edge function and its site to AWS, detaches the function, deletes both.

One environment is one CloudFormation stack, redirect-ENV, and one private bucket for its packages. One account can have
several environments.
"""

import argparse
import time
import zipfile
from pathlib import Path

from botocore.exceptions import ClientError

import bucket
import doctor
import last_flags
import logs
import pages
import recipe
import sites
import stack
from aws import REGION, account_id, client, code_of
from bucket import Package, PackageBucket, now
from distribution import Attachment, Distribution
from environment import Environment
from failure import Failure
from launchdarkly import KEY_TAG, fingerprint, needed_key
from shell_secrets import preview_token
from template import Refused, Resolved, load
from terminal import say, waiting

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "cloudformation" / "edge.yaml"
PACKAGE = ROOT / "target" / "edge" / "redirect.zip"
SITE = ROOT / "site"

# Parameters of the template that only deploy sets.
MANAGED = {"PackageBucket", "PackageKey", "PackageSha256", "Release", "AttachFunction"}

# Placeholders for a package that is not built yet.
UNBUILT = {
    "PackageBucket": "BUCKET",
    "PackageKey": "packages/HASH.zip",
    "PackageSha256": f"{'0' * 43}=",
    "AttachFunction": "yes",
}

# How often destroy checks whether the replicas are gone, which takes hours.
REPLICA_POLL_SECONDS = 60


# ---- deploy ----------------------------------------------------------------------------------------------------------


def deploy(environment: Environment, options: argparse.Namespace) -> None:
    chosen = chosen_parameters(options.set)
    tags = stack.given_tags(options.tag)
    local = pages.pages(SITE, chosen["CurrentPath"], chosen["BetaPath"])
    if options.dry_run:
        dry_run(environment, chosen, local, options)
        return

    # Check everything possible before the build, which takes minutes.
    key, token = ("", "") if options.without_function else (needed_key(ROOT), preview_token())
    account = account_id()
    packages = PackageBucket(environment.stack, account)
    say(f"Environment {environment.name}: stack {environment.stack.name} in {REGION}, account {account}")
    exists = environment.stack.ready()
    if key:
        environment.stack.refuse_another_key(key, options.new_key)
    if not options.without_function:
        tags[KEY_TAG] = fingerprint(key)
    kept = environment.stack.parameters(TEMPLATE) if exists else {}
    resolved = foreseen(environment, kept | chosen, options)
    if options.attach:
        existing = Distribution(resolved.parameters["ExistingDistributionId"])
        attachment(environment, resolved).refuse_others(existing.config())
    if options.without_function and exists and "Function" in environment.stack.resources():
        raise Failure(
            f"The stack {environment.stack.name} already has the function, which cannot be removed while it has "
            f"replicas. To detach it: just detach {environment.name}"
        )

    live = kept.get("PackageKey", "")
    package = None if options.without_function else build(environment, packages, live, key, token)
    packages.secure()
    if package:
        packages.upload(package, fingerprint(key))
        if exists:
            packages.note_live()

    say(f"Stack {environment.stack.name}")
    values = {**chosen, **function_parameters(package, packages.name)}
    if package and kept.get("PackageKey") == package.key and not environment.stack.was_rolled_back():
        values.pop("Release")
    if not environment.stack.apply(TEMPLATE, values, tags, environment.confirming(options.confirm)):
        say("  nothing to change")
    outputs = environment.stack.outputs()
    if package and "Url" in outputs:
        reattach(environment, outputs["DistributionId"])
    if options.attach:
        attach(attachment(environment, resolved), outputs)
    if package:
        packages.note_live()
    if "SiteBucketName" in outputs:
        site = bucket.owned(outputs["SiteBucketName"], account)
        publish_pages(local, site, Distribution(outputs["DistributionId"]), packages)
    closing_words(environment, outputs, bool(package), options.attach)


def chosen_parameters(settings: list[str]) -> dict[str, str]:
    for name, field in sites.PATHS.items():
        if any(setting.startswith(f"{name}=") for setting in settings):
            raise Failure(f"--set {name}=...: this value is compiled in from redirect.toml. Set {field} there.")
    return sites.paths(ROOT) | stack.chosen_parameters(TEMPLATE, MANAGED | set(sites.PATHS), settings)


def foreseen(environment: Environment, values: dict[str, str], options: argparse.Namespace) -> Resolved:
    """The template with these values, as if the package existed. Fails where CloudFormation would."""
    package = {} if options.without_function else UNBUILT
    resolved = Resolved(load(TEMPLATE.read_text()), {**values, **package}, environment.stack.name)
    if options.attach and (options.without_function or not resolved.parameters["ExistingDistributionId"]):
        raise Failure(
            "--attach is for the function on an existing distribution: add --set ExistingDistributionId=E... to it. "
            "The stack attaches the function to its own distribution automatically."
        )
    return resolved


def build(environment: Environment, packages: PackageBucket, live: str, key: str, token: str) -> Package:
    """Unchanged flag data keeps its date, so that the same inputs make the live package again. While LaunchDarkly is
    down, the live package's flag data is used."""
    if live and environment.stack.tags().get(KEY_TAG) == fingerprint(key) and (flags := packages.flags(live)):
        last_flags.write(ROOT, key, flags)
    recipe.run("package", key, token)
    return read_package(PACKAGE)


def read_package(path: Path) -> Package:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise Failure(f"{path.relative_to(ROOT)} cannot be read: {error}. Build it again: just package") from None
    if not {"redirect", "carrier.py"} <= set(members):
        raise Failure(f"{path.relative_to(ROOT)} lacks the binary or its carrier. Build it again: just package")
    return Package.of(path)


def function_parameters(package: Package | None, packages: str) -> dict[str, str]:
    if not package:
        return {}
    return {
        "PackageBucket": packages,
        "PackageKey": package.key,
        "PackageSha256": package.checksum,
        "Release": now(),
        "AttachFunction": "yes",
    }


def reattach(environment: Environment, distribution_id: str) -> None:
    """CloudFormation compares templates, not the distribution: it does not see that `detach` removed the function."""
    if Distribution(distribution_id).is_attached(environment.function):
        return
    say("The function was detached outside the stack; attaching it again")
    environment.stack.apply(None, {"AttachFunction": "no"})
    environment.stack.apply(None, {"AttachFunction": "yes"})


def attachment(environment: Environment, resolved: Resolved) -> Attachment:
    """From the behaviors that the stack's own distribution would have."""
    redirected: list[str] = []
    indexed: list[str] = []
    for behavior in sites.behaviors(resolved):
        pattern = behavior.get("PathPattern", "*")
        if "LambdaFunctionAssociations" in behavior:
            redirected.append(pattern)
        elif "FunctionAssociations" in behavior:
            indexed.append(pattern)
    return Attachment(environment.function, redirected, indexed)


def attach(attachment: Attachment, outputs: dict[str, str]) -> None:
    distribution = Distribution(outputs["DistributionId"])
    say(f"Distribution {distribution.id}")
    functions = outputs["FunctionVersionArn"], outputs["CurrentSiteFunctionArn"]
    if not distribution.attach(attachment, *functions, PACKAGE.parent):
        say("  no behavior to change")
    # Also for an update that an interrupted run started.
    distribution.wait_until_deployed()


def publish_pages(
    local: list[pages.Page], site: dict[str, str], distribution: Distribution, packages: PackageBucket
) -> None:
    say(f"Site bucket {site['Bucket']}")
    changes = pages.plan(local, site)
    stale = sorted({*changes.stale, *packages.pending()})
    if stale:
        packages.set_pending(stale)
    pages.publish(changes, site)
    if changes.same:
        say(f"  {changes.same} files unchanged")
    if stale:
        paths = pages.paths_of(stale)
        say(f"Invalidating {' '.join(paths)}")
        distribution.invalidate(paths)
        packages.set_pending([])


def closing_words(
    environment: Environment, outputs: dict[str, str], with_function: bool, is_attached: bool = False
) -> None:
    if "Url" not in outputs and is_attached:
        return
    if "Url" not in outputs:
        say(f"just deploy {environment.name} --attach adds the functions to the distribution's existing behaviors.")
        say("Your distribution's behaviors need these functions on viewer requests (first match first):")
        # A stack of an older template has no such output.
        say(f"  {outputs.get('Behaviors', 'see docs/deploy.md')}")
        say(f"  redirect function    {outputs.get('FunctionVersionArn', '(not deployed)')}")
        say(f"  CloudFront Function  {outputs['CurrentSiteFunctionArn']}")
        return
    if "ExistingBucketStatement" in outputs:
        say("Add this statement to your bucket's policy, and upload the site yourself:")
        say(f"  {outputs['ExistingBucketStatement']}")
    if not with_function:
        say(f"Everyone gets the current site. just deploy {environment.name} attaches the function.")
    say(outputs["Url"])


def dry_run(
    environment: Environment, chosen: dict[str, str], local: list[pages.Page], options: argparse.Namespace
) -> None:
    try:
        resolved = foreseen(environment, chosen, options)
    except Refused as error:
        raise Failure(f"{error}\nA dry run does not know the settings of earlier deployments. Pass them too.") from None
    made = resolved.resources()
    package = read_package(PACKAGE) if PACKAGE.exists() and "Function" in made else None
    say(f"Dry run: does not call AWS, changes nothing. just deploy {environment.name} would, in {REGION}:")
    archive = PACKAGE.relative_to(ROOT) if "Function" in made else None
    steps = [bucket.plan(environment.stack, archive, package)]
    values = {**chosen, **function_parameters(package, PackageBucket(environment.stack, "ACCOUNT").name)}
    steps.append(stack.plan(resolved, TEMPLATE.relative_to(ROOT), values))
    if options.attach:
        steps.append(f"Run the function in the behaviors of {chosen['ExistingDistributionId']} that need it")
    elif "Distribution" not in made:
        behaviors = resolved.value(resolved.template["Outputs"]["Behaviors"]["Value"])
        steps.append(
            "Print what to add to the existing distribution, on viewer requests, first match first; its pages do not "
            f"change:\n   {behaviors}\n   With --attach, add the functions to its existing behaviors"
        )
    elif "SiteBucket" not in made:
        steps.append("Print what to add to the policy of the existing bucket; its pages do not change")
    else:
        lines = [f"\n   {page.key:<28} {page.content_type:<26} {page.cache_control}" for page in local]
        steps.append("Upload the changed files of site/, assets first, and delete removed ones:" + "".join(lines))
        steps.append("Invalidate the paths whose content changed, wait for that, and print the address")
    for number, step in enumerate(steps, 1):
        say(f"\n{number}. {step}")


# ---- publish ---------------------------------------------------------------------------------------------------------


def publish(environment: Environment, _: argparse.Namespace) -> None:
    wanted = sites.paths(ROOT)
    local = pages.pages(SITE, wanted["CurrentPath"], wanted["BetaPath"])
    environment.described()
    environment.stack.ready()
    deployed = environment.stack.parameters()
    for name, field in sites.PATHS.items():
        if deployed.get(name, wanted[name]) != wanted[name]:
            raise Failure(
                f"{environment.name} was deployed with {field} {deployed[name]}, but redirect.toml has "
                f"{wanted[name]}. Publish the pages together with the function: just deploy {environment.name}"
            )
    outputs = environment.stack.outputs()
    if "SiteBucketName" not in outputs:
        raise Failure(f"The stack {environment.stack.name} has no bucket. Upload the site to your own bucket.")
    account = account_id()
    packages = PackageBucket(environment.stack, account)
    site = bucket.owned(outputs["SiteBucketName"], account)
    publish_pages(local, site, Distribution(outputs["DistributionId"]), packages)
    say(outputs["Url"])


# ---- detach ----------------------------------------------------------------------------------------------------------


def detach(environment: Environment, _: argparse.Namespace) -> None:
    described = environment.described()
    if not detach_now(environment):
        say("The function is not attached to any behavior.")
    # Directly through CloudFront is the fastest way, and works in any state of the stack. Now update the stack too, or
    # its next update would attach the function again.
    values = environment.stack.parameters()
    if values.get("ExistingDistributionId") or values.get("AttachFunction") == "no" or not values.get("PackageBucket"):
        say("Everyone gets the current site.")
        return
    say(f"Stack {environment.stack.name}")
    try:
        environment.stack.apply(None, {"AttachFunction": "no"})
    except Failure as error:
        raise Failure(
            f"Viewers no longer run the function, but the stack still attaches it ({described['StackStatus']}):\n"
            f"{error}\nRun just detach {environment.name} again when no operation on the stack is in flight."
        ) from None
    say(f"Everyone gets the current site. just deploy {environment.name} attaches the function again.")


def detach_now(environment: Environment) -> bool:
    """Removes the associations directly through CloudFront. True if there were any."""
    distribution = environment.distribution()
    stand_in = environment.stack.resources().get("CurrentSite", "")
    changed = distribution.detach(environment.function, stand_in) if distribution else 0
    if distribution and changed:
        say(f"Distribution {distribution.id}: {changed} behaviors no longer run the function")
        distribution.wait_until_deployed()
    return bool(changed)


# ---- destroy ---------------------------------------------------------------------------------------------------------


def destroy(environment: Environment, options: argparse.Namespace) -> None:
    account = account_id()
    environment.confirm(
        f"This deletes the site, the function and the packages of {environment.name} in the account {account} (in a "
        f"script, confirm with --yes {environment.name}).",
        options.yes,
    )
    if environment.stack.settle():
        has = environment.stack.resources()
        detach_now(environment)
        if "Function" in has:
            delete_function(environment)
        existing = environment.stack.parameters().get("ExistingDistributionId")
        if existing:
            Distribution(existing).release(environment.function)
        if "SiteBucket" in has:
            say(f"Emptying the site bucket {has['SiteBucket']}")
            bucket.empty(bucket.owned(has["SiteBucket"], account))
        say(f"Deleting the stack {environment.stack.name}")
        environment.stack.delete()
        if "LogBucket" in has:
            say(f"The bucket of the access logs is kept: {has['LogBucket']}")
    else:
        say(f"There is no stack {environment.stack.name}.")
    PackageBucket(environment.stack, account).delete()
    say(
        f"Only the logs of {environment.name} are left: {environment.log_group} in the Regions that served viewers. "
        f"just retention {environment.name} 1 empties them within days."
    )


def delete_function(environment: Environment) -> None:
    """Lambda deletes a function only after CloudFront has removed its replicas.

    https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/lambda-edge-delete-replicas.html
    """
    say(f"Deleting the function {environment.function}")
    if has_gone(environment.function):
        return
    say("  CloudFront still has replicas near the viewers. It removes them some hours after the function is detached;")
    say("  nothing speeds that up, and waiting is free. You can interrupt this and resume it later, even tomorrow:")
    say(f"  just destroy {environment.name}")
    with waiting("waiting for the replicas to be removed") as still:
        while True:
            time.sleep(REPLICA_POLL_SECONDS)
            if has_gone(environment.function):
                return
            still()


def has_gone(function: str) -> bool:
    try:
        client("lambda").delete_function(FunctionName=function)
        say("  deleted")
    except ClientError as error:
        if code_of(error) == "ResourceNotFoundException":
            say("  already deleted")
        elif "replicated function" in str(error):
            return False
        else:
            raise
    return True


# ---- url, logs, doctor -----------------------------------------------------------------------------------------------


def url(environment: Environment, _: argparse.Namespace) -> None:
    environment.described()
    outputs = environment.stack.outputs()
    if "Url" not in outputs:
        raise Failure(f"The stack {environment.stack.name} has no distribution. Use the address of your own.")
    say(outputs["Url"])


def follow_logs(environment: Environment, _: argparse.Namespace) -> None:
    environment.described()
    logs.follow(environment.log_group, logs.regions_of_account)


def retain_logs(environment: Environment, options: argparse.Namespace) -> None:
    # Logs outlive the stack, so it need not exist.
    say(f"Log group {environment.log_group}")
    logs.retain(environment.log_group, options.days)


def examine(environment: Environment, _: argparse.Namespace) -> None:
    doctor.examine(environment, ROOT, PACKAGE)
