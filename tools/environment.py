"""An environment: the names of an edge function, its site and its flag store."""

import re
import sys
from collections.abc import Callable
from typing import Any

from aws import REGION
from distribution import Distribution
from failure import Failure
from stack import Stack
from terminal import say

# Arguments that can follow the environment, whose name is optional.
ARGUMENTS = {"edge", "store", "once", "check"}


class Environment:
    def __init__(self, name: str) -> None:
        hint = ""
        # Bucket names have at most 63 characters and no capitals.
        if not re.fullmatch(r"[a-z](-?[a-z0-9]){0,19}", name):
            hint = "Use up to 20 lower-case letters, digits and single hyphens, such as production or staging."
        elif name in ARGUMENTS:
            hint = f"The environment comes first: production {name}"
        elif name.endswith("-flags"):
            store = name.removesuffix("-flags")
            hint = f"The flag store of {store} has the stack redirect-{name}. Use a name that does not end in -flags."
        if hint:
            raise Failure(f"{name!r} is not a valid environment name. {hint}")
        self.name = name
        self.stack = Stack(f"redirect-{name}", f"just destroy {name}")
        # The template gives the function the stack's name.
        self.function = self.stack.name
        # In the Region where a replica runs.
        self.log_group = f"/aws/lambda/{REGION}.{self.function}"

    def described(self) -> dict[str, Any]:
        found = self.stack.describe()
        if not found:
            raise Failure(f"There is no stack {self.stack.name} in {REGION}. Create it: just deploy {self.name}")
        return found

    def distribution(self) -> Distribution | None:
        """The stack's own, or the existing one."""
        found = self.stack.resources().get("Distribution") or self.stack.parameters().get("ExistingDistributionId")
        return Distribution(found) if found else None

    def confirm(self, what: str, yes: str | None = None) -> None:
        """Asks the user to type the name, unless --yes has it."""
        if yes is None and not sys.stdin.isatty():
            raise Failure(f"{what} There is no terminal to confirm this, so nothing was changed.")
        answer = yes
        if yes is None:
            say(what)
            try:
                answer = input(f"Type {self.name} to continue: ").strip()
            except EOFError:  # Ctrl-D
                answer = ""
        if answer != self.name:
            raise Failure("Not confirmed; nothing was changed.")

    def confirming(self, is_wanted: bool) -> Callable[[], None]:
        """For changes that have been printed."""
        return lambda: self.confirm("These changes need confirmation (--confirm).") if is_wanted else None
