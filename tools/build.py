"""Runs a compiler and prints one line of progress instead of its three hundred. If it fails, prints all its output.

Needs only Python: recipes run it before anything is installed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from failure import Failure

ROOT = Path(__file__).resolve().parents[1]


def run(what: str, command: list[str]) -> None:
    is_terminal = sys.stderr.isatty()
    environment = dict(os.environ)
    if is_terminal and not environment.get("NO_COLOR"):
        # Cargo writes to a pipe here, but its error messages end up on the terminal.
        environment.setdefault("CARGO_TERM_COLOR", "always")
    print(f"Building {what} (the first time takes some minutes) ...", file=sys.stderr, flush=True)
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output, crates = [], 0
    for line in process.stdout or ():
        output.append(line)
        if "Compiling" in line:
            crates += 1
            if is_terminal:
                print(f"\r{crates} crates compiled", end="", file=sys.stderr, flush=True)
    if crates and is_terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if process.wait():
        # For an invalid setting, the message of build.rs is enough.
        for line in output:
            if found := re.search(r"redirect@\S+: (redirect\.toml: .*)", line):
                raise Failure(found[1])
        raise Failure(f"Building {what} failed:\n{''.join(output).rstrip()}")
    if any("warning" in line for line in output):
        print("".join(output).rstrip(), file=sys.stderr)


def main(what: str, *command: str) -> int:
    try:
        run(what, list(command))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
