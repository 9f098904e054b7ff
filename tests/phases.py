"""Runs all tests in phases, one recipe each, stops at the first failure, and prints how long each phase took.

Runs before anything is installed, so it needs only Python.
"""

import os
import subprocess
import sys
import time

PHASES = [
    ("_test-setup", "installs what the phases need"),
    ("lint", "format, clippy, ruff, mypy"),
    ("doc", "the crates' documentation"),
    ("test-package", "the package, built twice with the same bytes"),
    ("test-rust", "every crate"),
    ("test-flag-sync", "flag-sync, optimized"),
    ("test-guard", "instructions of a start and an invocation"),
    ("test-browser", "preview, pictures and pages in Chromium"),
    ("test-tools", "deployment, templates, package"),
    ("test-fuzz", "the decision, fuzzed"),
]


def main() -> int:
    just = os.environ.get("JUST_EXECUTABLE", "just")
    times: list[tuple[str, str, float]] = []
    started = time.monotonic()
    for number, (recipe, what) in enumerate(PHASES, 1):
        print(f"\n== {number}/{len(PHASES)} {recipe}: {what}", flush=True)
        begun = time.monotonic()
        status = subprocess.run([just, recipe], check=False).returncode
        times.append((recipe, what, time.monotonic() - begun))
        if status:
            break
    print()
    for recipe, what, seconds in times:
        print(f"{recipe:<16}{clock(seconds):>8}  {what}")
    print(f"{'all':<16}{clock(time.monotonic() - started):>8}")
    if status:
        print(f"\n{recipe} failed. Run it alone: just {recipe}", file=sys.stderr)
    return status


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


if __name__ == "__main__":
    sys.exit(main())
