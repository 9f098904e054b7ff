"""Writes the Lambda package of each subject of the bench to a folder in target/bench, and measures it as a zip.

With a commit, writes that commit's function instead, as `before`, for comparison.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from package import packed  # noqa: E402 - the packer of `just package`, for comparable sizes

GUIDE = ROOT / "benches/guide"
TARGET = ROOT / "target/bench"
CARRIER = ROOT / "src/carrier/carrier.py"


def built(name: str) -> Path:
    return ROOT / "target/lambda" / name / "bootstrap"


def node_modules() -> dict[str, Path]:
    """The packages that the guide's handler needs at run time, without the bundler and Lambda's own runtime client."""
    command = ["npm", "ls", "--all", "--parseable", "--omit=dev"]
    listed = subprocess.run(command, cwd=GUIDE, check=True, capture_output=True, text=True).stdout.split()
    folders = [Path(line) for line in listed[1:]]
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    # A nested package is listed in the folders of both.
    return {str(file.relative_to(GUIDE)): file for file in sorted(set(files))}


def bundle() -> Path:
    """As an ES module: the runtime client imports the handler, and for a large CommonJS file, finding its exports takes
    Node longer than a bundle saves."""
    out = TARGET / "bundle/guide.mjs"
    require = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"
    command = [str(GUIDE / "node_modules/.bin/esbuild"), "guide.js", "--bundle", "--minify", "--format=esm"]
    command += ["--platform=node", "--target=node22", f"--banner:js={require}", f"--outfile={out}"]
    subprocess.run([*command, "--log-level=error"], cwd=GUIDE, check=True)
    return out


def unpack_ms(package: bytes) -> float:
    """The time to unpack: the only part of Lambda's own work before a start that can be measured here."""
    times = []
    for _ in range(9):
        started = time.perf_counter()
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            for name in archive.namelist():
                archive.read(name)
        times.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(times), 1)


def lay_out_before(commit: str) -> None:
    """In a separate worktree and target folder, built as in `just build`."""
    tree = ROOT / "target/before"
    command = ["git", "worktree", "add", "--force", "--detach", str(tree), commit]
    if tree.exists():
        command = ["git", "-C", str(tree), "checkout", "--quiet", "--detach", commit]
    subprocess.run(command, cwd=ROOT, check=True)
    environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target/before-target")}
    environment["CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS"] = "-Crelocation-model=static"
    build = ["cargo", "lambda", "build", "--locked", "--release", "--bin", "redirect"]
    subprocess.run(build, cwd=tree, check=True, env=environment)
    folder = TARGET / "before"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "target/before-target/lambda/redirect/bootstrap", folder)
    described = subprocess.run(
        ["git", "log", "-1", "--format=%h of %cs"], cwd=tree, check=True, capture_output=True, text=True
    ).stdout
    (folder / "commit").write_text(described.strip())


def main() -> None:
    subjects: dict[str, dict[str, Path]] = {
        "noop-native": {"bootstrap": built("noop")},
        "noop-edge": {"redirect": built("noop"), "carrier.py": CARRIER},
        "redirect-native": {"bootstrap": built("redirect")},
        "redirect-edge": {"redirect": built("redirect"), "carrier.py": CARRIER},
        "noop-node": {"noop.js": GUIDE / "noop.js"},
        "guide": {"guide.js": GUIDE / "guide.js", **node_modules()},
        "guide-bundled": {"guide.mjs": bundle()},
    }
    measured = {}
    for subject, members in subjects.items():
        folder = TARGET / subject
        shutil.rmtree(folder, ignore_errors=True)
        for name, source in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
        package = packed({name: (source.read_bytes(), 0o755) for name, source in members.items()})
        measured[subject] = {
            "bytes": len(package),
            "unpacked_bytes": sum(source.stat().st_size for source in members.values()),
            "unpack_ms": unpack_ms(package),
        }
    (TARGET / "packages.json").write_text(json.dumps(measured, indent=2) + "\n")


if len(sys.argv) > 1:
    lay_out_before(sys.argv[1])
else:
    main()
