"""An environment: what the edge function, its site and a flag store of the same name are called."""

from __future__ import annotations

import re
import sys

from aws import REGION, DeployError, say
from stack import Stack


# What commands take after the environment, which may be left out.
ARGUMENTS = {"edge", "store", "once", "check"}


class Environment:
    def __init__(self, name: str) -> None:
        # Bucket names end at 63 characters, and take no capitals.
        if not re.fullmatch(r"[a-z](-?[a-z0-9]){0,19}", name):
            raise DeployError(
                f"{name!r} is no environment's name. Take up to 20 lower-case letters, digits and single hyphens, such "
                "as production or staging."
            )
        if name in ARGUMENTS:
            raise DeployError(f"{name!r} is no environment's name. Give the environment first: production {name}")
        if name.endswith("-flags"):
            raise DeployError(
                f"{name!r} is no environment's name: the flag store of {name.removesuffix('-flags')} has the stack "
                f"redirect-{name}. Take a name that does not end in -flags."
            )
        self.name = name
        self.stack = Stack(f"redirect-{name}", f"just destroy {name}")
        # The template gives the function the stack's name.
        self.function = self.stack.name

    def described(self) -> dict:
        found = self.stack.describe()
        if not found:
            raise DeployError(f"There is no stack {self.stack.name} in {REGION}. Make it with: just deploy {self.name}")
        return found

    def confirm(self, what: str) -> None:
        """Asks a person; a script has said what it wants."""
        if not sys.stdin.isatty():
            return
        say(what)
        try:
            answer = input(f"Type {self.name} to go on: ").strip()
        except EOFError:  # Ctrl-D
            answer = ""
        if answer != self.name:
            raise DeployError("Not confirmed; nothing was changed.")
