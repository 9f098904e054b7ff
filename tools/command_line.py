"""What just runs against AWS: the edge function and the flag store of an environment.

Each command has the name of its recipe, and may be interrupted and run again.
"""

import argparse
import sys
from collections.abc import Callable

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

    def command(name: str, run: Run, text: str, more: str = "") -> argparse.ArgumentParser:
        description = f"{text[0].upper()}{text[1:]}. {more}"
        added = commands.add_parser(name, help=text, description=description)
        added.add_argument(
            "environment", nargs="?", default="production", metavar="ENV", help="its name (default: %(default)s)"
        )
        added.set_defaults(run=run, parser=added)
        return added

    deploying = command(
        "deploy", edge.deploy, "build, pack and upload the function, deploy the stack, publish site/",
        "Arguments, SDK key, credentials and the state of the stack are checked before anything is built.",
    )  # fmt: skip
    deploying.add_argument(
        "--without-function", action="store_true", help="bucket and CloudFront only; everyone gets the current site"
    )
    deploying.add_argument(
        "--attach", action="store_true",
        help="with ExistingDistributionId: run the new version in the behaviors that the distribution has",
    )  # fmt: skip
    storing = command(
        "store-deploy", store.deploy, "build and upload flag-sync, deploy its table, function and webhook",
        "The SDK key of this shell is put into SSM Parameter Store.",
    )  # fmt: skip
    for added in (deploying, storing):
        added.add_argument("--dry-run", action="store_true", help="show what would happen; needs no account")
        added.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE",
            help="a parameter of the template, kept by later deployments; may be repeated",
        )  # fmt: skip
        added.add_argument(
            "--tag", action="append", default=[], metavar="NAME=VALUE",
            help="a tag of the stack and what it makes, kept by later deployments; may be repeated",
        )  # fmt: skip
        added.add_argument("--confirm", action="store_true", help="ask before the changes, once shown, are made")
    seeing = command(
        "status", status.run, "show what runs, what the flag says, and what viewers got",
        f"The log's last {status.MINUTES} minutes are read in all Regions at once. Ends with 1 when something cannot "
        "be read.",
    )  # fmt: skip
    seeing.add_argument("--json", action="store_true", help="print JSON")
    command("publish", edge.publish, "publish site/ without building or changing the function")
    rolling = command(
        "rollback", rollback.run, "make the package that was live before live again",
        "Needs neither a build nor the SDK key nor LaunchDarkly.",
    )  # fmt: skip
    rolling.add_argument("hash", nargs="?", default="", metavar="HASH", help="the beginning of a package's hash")
    rolling.add_argument("--list", action="store_true", help="list what can be chosen, and change nothing")
    rolling.add_argument("--new-key", action="store_true", help="accept a package with another SDK key")
    command("detach", edge.detach, "take the function off the distribution: everyone gets the current site")
    for name, run, text, more in (
        ("destroy", edge.destroy, "delete everything that deploy made", "Waits for the replicas, which takes hours."),
        ("store-destroy", store.destroy, "delete everything that store-deploy made", ""),
    ):
        command(name, run, text, more).add_argument(
            "--yes", metavar="ENV", help="the environment's name once more, where nobody can be asked for it"
        )
    syncing = command(
        "sync", store.sync, "make the table equal to LaunchDarkly now",
        "Ends with 1 when check finds a difference, with 2 when nothing was compared.",
    )  # fmt: skip
    syncing.add_argument("action", nargs="?", default="once", choices=("once", "check"), help="check only compares")
    for added in (deploying, storing, syncing):
        added.add_argument("--new-key", action="store_true", help="accept another SDK key than the one deployed with")
    syncing.add_argument("--json", action="store_true", help="print JSON")
    for name, of_edge, of_store, text in (
        ("url", edge.url, store.url, "print the site's address, or that of the flag store's webhook"),
        ("logs", edge.follow_logs, store.follow_logs, "follow the function's logs in all Regions, or flag-sync's"),
    ):
        showing = command(name, of_part(of_edge, of_store), text)
        showing.add_argument("part", nargs="?", default="edge", choices=("edge", "store"), help="(default: edge)")
    retaining = command(
        "retention", edge.retain_logs, "set for how long the function's logs are kept, in all Regions that have some"
    )
    retaining.add_argument(
        "days", type=int, choices=logs.RETENTION_DAYS, metavar="DAYS",
        help=f"one of {', '.join(map(str, logs.RETENTION_DAYS))}",
    )  # fmt: skip
    command("doctor", edge.examine, "examine key, flag, credentials, Region, quotas and stack", "Changes nothing.")
    return made


def of_part(of_edge: Run, of_store: Run) -> Run:
    return lambda environment, options: (of_store if options.part == "store" else of_edge)(environment, options)


if __name__ == "__main__":
    sys.exit(main())
