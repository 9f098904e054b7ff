"""The command line of what `just` runs against AWS: edge function and flag store of an environment.

Each command has the name of its recipe, and may be interrupted and run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import deploy
import store
from aws import DeployError
from environment import Environment
from launchdarkly import LaunchDarklyError

# flag-sync's own: it ends with 1 when the table differs, so what kept it from looking must be told apart.
NOT_COMPARED = 2


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.run(Environment(options.environment), options) or 0
    except (DeployError, LaunchDarklyError) as error:
        print(f"\n{error}", file=sys.stderr)
        return NOT_COMPARED if options.command == "sync" else 1
    except KeyboardInterrupt:
        if options.command == "logs":
            return 0  # the way to end it
        again = f"just {options.command} {options.environment}"
        print(f"\nInterrupted. What AWS has begun goes on there; {again} takes it up again.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="just", description=__doc__.split("\n", 1)[0])
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("environment", nargs="?", default="production", metavar="ENV")
        added.set_defaults(run=run)
        return added

    edge = command("deploy", deploy.deploy, "upload the package, deploy the stack, publish the site")
    edge.add_argument(
        "--without-function", action="store_true", help="bucket and CloudFront only; everyone gets the current site"
    )
    flags = command("store-deploy", store.deploy, "upload flag-sync, deploy table, function and webhook")
    for deploying in (edge, flags):
        deploying.add_argument("--dry-run", action="store_true", help="show what would happen; needs no account")
        deploying.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the template; it is kept"
        )
    command("detach", deploy.detach, "take the function away from the viewers at once: everyone gets the current site")
    command("destroy", deploy.destroy, "delete everything that deploy made")
    command("store-destroy", store.destroy, "delete everything that store-deploy made")
    syncing = command("sync", store.sync, "make the table equal to LaunchDarkly now")
    syncing.add_argument("action", nargs="?", default="once", choices=("once", "check"), help="check only compares")
    syncing.add_argument("--json", action="store_true", help="print JSON")
    for name, of_edge, of_store, text in (
        ("url", deploy.url, store.url, "print the site's address, or the webhook's of the flag store"),
        ("logs", deploy.logs_of, store.logs_of, "follow the edge function's logs in all Regions, or flag-sync's"),
    ):
        showing = command(name, of_part(of_edge, of_store), text)
        showing.add_argument("part", nargs="?", default="edge", choices=("edge", "store"))
    command("doctor", deploy.doctor_of, "tell whether key, flag, credentials, Region and quotas are right")
    return made


def of_part(edge: Callable, flag_store: Callable) -> Callable:
    return lambda environment, options: (flag_store if options.part == "store" else edge)(environment, options)


if __name__ == "__main__":
    sys.exit(main())
