"""The secrets of this shell, which are compiled into the function. No other program may see them."""

import os
import re

from failure import Failure

KEY_VARIABLE = "LAUNCHDARKLY_SDK_KEY"
TOKEN_VARIABLE = "REDIRECT_PREVIEW_TOKEN"
VARIABLES = (KEY_VARIABLE, TOKEN_VARIABLE)

_hidden: dict[str, str] = {}


def hide() -> None:
    """Removes them from the environment, so that no child process sees them, such as a profile's credential_process."""
    _hidden.update({name: os.environ.pop(name) for name in VARIABLES if name in os.environ})


def secret(name: str) -> str:
    return os.environ.get(name) or _hidden.get(name, "")


def preview_token() -> str:
    """The token of preview links, or "" if there is none."""
    token = secret(TOKEN_VARIABLE).strip()
    if token and not re.fullmatch(r"[A-Za-z0-9._-]{16,128}", token):
        raise Failure(
            f"{TOKEN_VARIABLE} is not a valid preview token. Set 16 to 128 letters, digits, '.', '_' and '-', or unset "
            "it; run `just preview-link` to make one."
        )
    return token
