"""Runs a recipe of the justfile after a command has checked its arguments."""

import os
import subprocess
from pathlib import Path

from failure import Failure
from shell_secrets import KEY_VARIABLE, TOKEN_VARIABLE, VARIABLES

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, key: str = "", token: str = "") -> None:
    """The recipe sees no AWS credentials, and the SDK key and the preview token only if they are to be compiled in."""
    hidden = ("AWS_", *VARIABLES)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {name: value for name, value in ((KEY_VARIABLE, key), (TOKEN_VARIABLE, token)) if value}
    command = ["just", "--justfile", str(ROOT / "justfile"), name]
    try:
        status = subprocess.run(command, env=environment, check=False).returncode
    except OSError as error:
        raise Failure(f"just {name} did not start: {error.strerror}. Run this command with tools/just.") from None
    if status:
        raise Failure(f"just {name} failed; its output is above.")
