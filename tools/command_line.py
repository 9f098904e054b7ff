"""What just runs against AWS: the edge function and the flag store of an environment.

Each command has the name of its recipe, and may be interrupted and run again.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import edge
import logs
import rollback
import shell_secrets
import status
import store
from aws import REPORTED, explained
from environment import Environment

# flag-sync itself ends with 1 when the table differs, so another status says that nothing was compared.
NOT_COMPARED = 2

Run = Callable[[Environment, argparse.Namespace], int | None]


def main(arguments: list[str] | None = None) -> int:
    options, unknown = parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unknown arguments: {' '.join(unknown)}")
    shell_secrets.hide()
    try:
        return options.run(Environment(options.environment), options) or 0
    except REPORTED as error:
        print(f"\n{explained(error)}", file=sys.stderr)
        return NOT_COMPARED if options.command == "sync" else 1
    except KeyboardInterrupt:
        if options.command == "logs":
            return 0  # the way to end it
        again = " ".join(filter(None, ("just", options.command, options.environment, getattr(options, "hash", ""))))
        print(f"\nInterrupted. What AWS has begun goes on there; {again} resumes.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="just", description=(__doc__ or "").split("\n", 1)[0])
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str, *arguments: argparse.ArgumentParser, more: str = "") -> None:
        description = f"{text[0].upper()}{text[1:]}. {more}"
        added = commands.add_parser(name, help=text, description=description, parents=[environment, *arguments])
        added.set_defaults(run=run, parser=added)

    name = "the environment's name (default: %(default)s)"
    environment = argument("environment", nargs="?", default="production", metavar="ENV", help=name)
    new_key = argument("--new-key", action="store_true", help="accept another SDK key than the one deployed with")
    json = argument("--json", action="store_true", help="print JSON")
    yes = argument("--yes", metavar="ENV", help="the environment's name once more, where nobody can be asked for it")
    part = argument("part", nargs="?", default="edge", choices=("edge", "store"), help="of which part (default: edge)")
    days = ", ".join(map(str, logs.RETENTION_DAYS))
    several = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    kept = "kept by later deployments; may be repeated"
    changing = (
        argument("--dry-run", action="store_true", help="show what would happen; needs no account"),
        argument("--set", **several, help=f"a parameter of the template (docs/ has them), {kept}"),
        argument("--tag", **several, help=f"a tag of the stack and what it makes, {kept}"),
        argument("--confirm", action="store_true", help="ask before the changes, once shown, are made"),
        new_key,
    )

    command(
        "deploy", edge.deploy, "build, pack and upload the function, deploy the stack, publish site/", *changing,
        argument(
            "--without-function", action="store_true", help="bucket and CloudFront only; everyone gets the current site"
        ),
        argument(
            "--attach", action="store_true",
            help="with ExistingDistributionId: run the new version in the behaviors that the distribution has",
        ),
        more="Arguments, SDK key, credentials and the state of the stack are checked before anything is built.",
    )  # fmt: skip
    command(
        "store-deploy", store.deploy, "build and upload flag-sync, deploy its table, function and webhook", *changing,
        more="The SDK key of this shell is put into SSM Parameter Store.",
    )  # fmt: skip
    command(
        "status", status.run, "show what runs, what the flag says, and what viewers got", json,
        more=f"The log's last {status.MINUTES} minutes are read in all Regions at once. Ends with 1 when something "
        "cannot be read.",
    )  # fmt: skip
    command("publish", edge.publish, "publish site/ without building or changing the function")
    command(
        "rollback", rollback.run, "make the package that was live before live again", new_key,
        argument("hash", nargs="?", default="", metavar="HASH", help="the beginning of the hash of another package"),
        argument("--list", action="store_true", help="list what can be chosen, and change nothing"),
        more="Needs neither a build nor the SDK key nor LaunchDarkly.",
    )  # fmt: skip
    command("detach", edge.detach, "take the function off the distribution: everyone gets the current site")
    command(
        "destroy", edge.destroy, "delete everything that deploy made", yes,
        more="Waits for the replicas, which takes hours.",
    )  # fmt: skip
    command("store-destroy", store.destroy, "delete everything that store-deploy made", yes)
    command(
        "sync", store.sync, "make the table equal to LaunchDarkly now", new_key, json,
        argument("action", nargs="?", default="once", choices=("once", "check"), help="check only compares"),
        more="Ends with 1 when check finds a difference, with 2 when nothing was compared.",
    )  # fmt: skip
    command("url", of_part(edge.url, store.url), "print the site's address, or that of the flag store's webhook", part)
    command(
        "logs", of_part(edge.follow_logs, store.follow_logs),
        "follow the function's logs in all Regions, or flag-sync's", part,
    )  # fmt: skip
    command(
        "retention", edge.retain_logs, "set for how long the function's logs are kept, in all Regions that have some",
        argument("days", type=int, choices=logs.RETENTION_DAYS, metavar="DAYS", help=f"one of {days}"),
    )  # fmt: skip
    command("doctor", edge.examine, "examine key, flag, credentials, Region, quotas and stack", more="Changes nothing.")
    return made


def argument(*names: str, **settings: Any) -> argparse.ArgumentParser:
    """One that several commands may have."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(*names, **settings)
    return parent


def of_part(of_edge: Run, of_store: Run) -> Run:
    return lambda environment, options: (of_store if options.part == "store" else of_edge)(environment, options)


if __name__ == "__main__":
    sys.exit(main())
