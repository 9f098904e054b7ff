"""An environment: the names of the edge function, its site and the flag store that belong together."""

import re
import sys
from collections.abc import Callable
from typing import Any

from aws import REGION
from distribution import Distribution
from failure import Failure
from stack import Stack
from terminal import say

# Arguments that follow the environment, which may be left out.
ARGUMENTS = {"edge", "store", "once", "check"}


class Environment:
    def __init__(self, name: str) -> None:
        hint = ""
        # Bucket names end at 63 characters, and allow no capitals.
        if not re.fullmatch(r"[a-z](-?[a-z0-9]){0,19}", name):
            hint = "Use up to 20 lower-case letters, digits and single hyphens, such as production or staging."
        elif name in ARGUMENTS:
            hint = f"Give the environment first: production {name}"
        elif name.endswith("-flags"):
            store = name.removesuffix("-flags")
            hint = f"The flag store of {store} has the stack redirect-{name}. Use a name that does not end in -flags."
        if hint:
            raise Failure(f"{name!r} is not an environment's name. {hint}")
        self.name = name
        self.stack = Stack(f"redirect-{name}", f"just destroy {name}")
        # The template gives the function the stack's name.
        self.function = self.stack.name
        # In the Region where a replica runs.
        self.log_group = f"/aws/lambda/{REGION}.{self.function}"

    def described(self) -> dict[str, Any]:
        found = self.stack.describe()
        if not found:
            raise Failure(f"There is no stack {self.stack.name} in {REGION}. Make it with: just deploy {self.name}")
        return found

    def distribution(self) -> Distribution | None:
        """The stack's own, or the one that exists."""
        found = self.stack.resources().get("Distribution") or self.stack.parameters().get("ExistingDistributionId")
        return Distribution(found) if found else None

    def confirm(self, what: str, yes: str | None = None) -> None:
        """Asks a person to type the name, unless it was given by --yes."""
        if yes is None and not sys.stdin.isatty():
            raise Failure(f"{what} Nobody can be asked here, so nothing was changed.")
        answer = yes
        if yes is None:
            say(what)
            try:
                answer = input(f"Type {self.name} to go on: ").strip()
            except EOFError:  # Ctrl-D
                answer = ""
        if answer != self.name:
            raise Failure("Not confirmed; nothing was changed.")

    def confirming(self, is_wanted: bool) -> Callable[[], None]:
        """For a change that is on the screen."""
        return lambda: self.confirm("These changes are made (--confirm).") if is_wanted else None
