"""Makes an earlier package from the package bucket live again, without a build, the SDK key or LaunchDarkly."""

import argparse

import edge
from aws import account_id
from bucket import Live, PackageBucket, now
from distribution import Attachment, Distribution
from environment import Environment
from failure import Failure
from launchdarkly import KEY_TAG
from stack import is_busy
from terminal import say


def run(environment: Environment, options: argparse.Namespace) -> None:
    in_flight = is_busy(environment.described()["StackStatus"])
    packages = PackageBucket(environment.stack, account_id())
    if not options.list:
        environment.stack.ready()
    values = environment.stack.parameters()
    if not values.get("PackageKey"):
        raise Failure(f"The stack {environment.stack.name} has no function. Deploy it: just deploy {environment.name}")
    *earlier, live = packages.history()
    there = packages.uploaded()
    choices = {entry.key: entry for entry in earlier if entry.key in there and entry.key != live.key}
    say(f"Live      {live}")
    for entry in reversed(choices.values()):
        say(f"Earlier   {entry}")
    if options.list:
        return
    if in_flight and not options.hash:
        raise Failure("An operation on the stack was in flight and may have been a rollback. Pass the package's hash.")
    chosen = choose([*choices.values(), live], live, options.hash)
    if chosen.key == live.key and values["AttachFunction"] == "yes":
        say(f"{live.hash[:12]} is already live.")
    if chosen.paths != live.paths:
        raise Failure(
            f"The package {chosen.hash[:12]} is for the paths {chosen.paths}, the distribution for {live.paths}. "
            "Deploy the commit that the package was built from, or give everyone the current site: "
            f"just detach {environment.name}"
        )
    options.hash = chosen.hash[:12]  # So that an interrupted run prints the command that resumes it.

    sdk_key = packages.sdk_key(chosen.key)
    if sdk_key != live.sdk_key and not options.new_key:
        confirm(environment, chosen, sdk_key, live.sdk_key)
    packages.secure()
    packages.note_live()
    wanted = {
        "PackageKey": chosen.key,
        "PackageSha256": chosen.checksum,
        "AttachFunction": "yes",
        # A stack of an older template has no such parameter.
        **({"Release": now()} if "Release" in values and chosen.key != live.key else {}),
    }
    say(f"Stack {environment.stack.name}")
    if not environment.stack.apply(None, wanted, {KEY_TAG: sdk_key} if sdk_key else {}):
        say("  nothing to change")
    outputs = environment.stack.outputs()
    distribution = Distribution(outputs["DistributionId"])
    if "Url" in outputs:
        edge.reattach(environment, distribution.id)
    elif distribution.is_attached(environment.function):
        # In an existing distribution, update the behaviors that run the function.
        edge.attach(Attachment(environment.function, [], []), outputs)
    packages.note_live()
    is_attached = distribution.is_attached(environment.function)
    edge.closing_words(environment, outputs, with_function=True, is_attached=is_attached)


def choose(choices: list[Live], live: Live, wanted: str) -> Live:
    found = [entry for entry in choices if (entry.hash.startswith(wanted) if wanted else entry.key != live.key)]
    if wanted and len(found) > 1:
        raise Failure(f"{wanted} matches the hashes of {len(found)} packages. Pass more digits.")
    if not found:
        what = f"No earlier package has a hash that begins with {wanted}" if wanted else "No earlier package"
        raise Failure(f"{what}. Deploy what should be live, or detach the function: see just rollback --help.")
    return found[-1]


def confirm(environment: Environment, chosen: Live, sdk_key: str, live: str) -> None:
    environment.confirm(
        f"The SDK key of the package {chosen.hash[:12]} ({sdk_key or 'unknown'}) differs from the live one "
        f"({live or 'unknown'}) and may have expired (in a script, accept it with --new-key)."
    )
