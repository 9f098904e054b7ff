"""The commands of `just` that use AWS, for the edge function and the flag store of an environment.

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

# flag-sync itself exits with 1 when the table differs, so another status means that nothing was compared.
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
            return 0  # Ctrl-C is how to end it.
        again = " ".join(filter(None, ("just", options.command, options.environment, getattr(options, "hash", ""))))
        print(f"\nInterrupted. AWS completes what it has started. To resume: {again}", file=sys.stderr)
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
    new_key = argument("--new-key", action="store_true", help="accept an SDK key that differs from the deployed one")
    json = argument("--json", action="store_true", help="print JSON")
    yes = argument("--yes", metavar="ENV", help="the environment's name again, to confirm without a terminal")
    part = argument("part", nargs="?", default="edge", choices=("edge", "store"), help="which part (default: edge)")
    days = ", ".join(map(str, logs.RETENTION_DAYS))
    several = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    kept = "kept by later deployments; may be repeated"
    changing = (
        argument("--dry-run", action="store_true", help="show what would happen; needs no account"),
        argument("--set", **several, help=f"a parameter of the template (docs/ has them), {kept}"),
        argument("--tag", **several, help=f"a tag of the stack and its resources, {kept}"),
        argument("--confirm", action="store_true", help="show the changes, and ask before they are made"),
        new_key,
    )

    command(
        "deploy", edge.deploy, "build, pack and upload the function, deploy the stack, publish site/", *changing,
        argument(
            "--without-function", action="store_true", help="bucket and CloudFront only; everyone gets the current site"
        ),
        argument(
            "--attach", action="store_true",
            help="with ExistingDistributionId: run the new version in the distribution's existing behaviors",
        ),
        more="Arguments, SDK key, credentials and the state of the stack are checked before anything is built.",
    )  # fmt: skip
    command(
        "store-deploy", store.deploy, "build and upload flag-sync, deploy its table, function and webhook", *changing,
        more="Stores this shell's SDK key in SSM Parameter Store.",
    )  # fmt: skip
    command(
        "status", status.run, "show what runs, what the flag says, and what viewers got", json,
        more=f"Reads the log's last {status.MINUTES} minutes in all Regions. Exits with 1 if something cannot be read.",
    )  # fmt: skip
    command("publish", edge.publish, "publish site/ without building or changing the function")
    command(
        "rollback", rollback.run, "make the previous package live again", new_key,
        argument("hash", nargs="?", default="", metavar="HASH", help="the beginning of the hash of another package"),
        argument("--list", action="store_true", help="list the packages to choose from, and change nothing"),
        more="Needs no build, no SDK key and no LaunchDarkly.",
    )  # fmt: skip
    command("detach", edge.detach, "detach the function from the distribution: everyone gets the current site")
    command(
        "destroy", edge.destroy, "delete everything that deploy created", yes,
        more="Waits until CloudFront has removed the replicas, which takes hours.",
    )  # fmt: skip
    command("store-destroy", store.destroy, "delete everything that store-deploy created", yes)
    command(
        "sync", store.sync, "make the table equal to LaunchDarkly now", new_key, json,
        argument("action", nargs="?", default="once", choices=("once", "check"), help="check only compares"),
        more="Exits with 1 if check finds a difference, with 2 if nothing was compared.",
    )  # fmt: skip
    command("url", of_part(edge.url, store.url), "print the address of the site, or of the flag store's webhook", part)
    command(
        "logs", of_part(edge.follow_logs, store.follow_logs),
        "follow the function's logs in all Regions, or flag-sync's", part,
    )  # fmt: skip
    command(
        "retention", edge.retain_logs, "set how long the function's logs are kept, in all Regions that have some",
        argument("days", type=int, choices=logs.RETENTION_DAYS, metavar="DAYS", help=f"one of {days}"),
    )  # fmt: skip
    command("doctor", edge.examine, "examine key, flag, credentials, Region, quotas and stack", more="Changes nothing.")
    return made


def argument(*names: str, **settings: Any) -> argparse.ArgumentParser:
    """An argument that several commands can share."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(*names, **settings)
    return parent


def of_part(of_edge: Run, of_store: Run) -> Run:
    return lambda environment, options: (of_store if options.part == "store" else of_edge)(environment, options)


if __name__ == "__main__":
    sys.exit(main())
