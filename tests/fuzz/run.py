"""Fuzzes the event parser and the decision for a limited time, starting from the events of events/.

cargo fuzz needs a nightly compiler; libFuzzer itself needs only coverage instrumentation, which stable Rust has.
Failing inputs are kept in target/fuzz/decision/crashes; the next run starts with them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "fuzz"
TARGET = ROOT / "target" / "fuzz"
# The options of cargo fuzz, without a sanitizer: the code under test is safe Rust.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
]


def host() -> str:
    output = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return next(line.split(": ")[1] for line in output.splitlines() if line.startswith("host: "))


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzzes the event parser and the decision.")
    parser.add_argument("--seconds", type=int, default=30)
    seconds = parser.parse_args().seconds

    # An explicit target keeps the instrumentation out of build scripts and macros.
    target = host()
    build = ["cargo", "build", "--release", "--locked", "--manifest-path", str(HERE / "Cargo.toml"), "--target", target]
    environment = {**os.environ, "RUSTFLAGS": " ".join(COVERAGE), "CARGO_TARGET_DIR": str(TARGET)}
    subprocess.run(build, env=environment, check=True)

    corpus = TARGET / "decision" / "corpus"
    crashes = TARGET / "decision" / "crashes"
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for event in (ROOT / "events").glob("*.json"):
        shutil.copy(event, corpus / event.name)
    fuzz = [str(TARGET / target / "release" / "decision"), str(corpus), str(crashes)]
    fuzz += [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={crashes}/",
        "-max_len=16384",
        "-timeout=10",
        "-verbosity=0",
    ]
    print(f"Fuzzing for {seconds} s ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [*fuzz, "-print_final_stats=1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode == 0:
        print("\n".join(line for line in output.splitlines() if line.startswith("stat::")))
    else:
        print(output, file=sys.stderr)
        print(f"The fuzzer found an input that fails: see {crashes.relative_to(ROOT)}", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
