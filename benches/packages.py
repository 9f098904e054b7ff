"""Lays out in target/bench what each subject of the bench would upload to Lambda, and measures it as a zip."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from package import packed  # noqa: E402 - the packer of `just package`, so that sizes compare

GUIDE = ROOT / "benches/guide"
TARGET = ROOT / "target/bench"
CARRIER = ROOT / "src/carrier/carrier.py"


def built(name: str) -> Path:
    return ROOT / "target/lambda" / name / "bootstrap"


def node_modules() -> dict[str, Path]:
    """What the guide's handler needs at run time; neither the bundler nor the runtime client, which Lambda has."""
    command = ["npm", "ls", "--all", "--parseable", "--omit=dev"]
    listed = subprocess.run(command, cwd=GUIDE, check=True, capture_output=True, text=True).stdout.split()
    folders = [Path(line) for line in listed[1:]]
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    # A package inside another one is in the folders of both.
    return {str(file.relative_to(GUIDE)): file for file in sorted(set(files))}


def bundle() -> Path:
    """As an ES module: the runtime client imports a handler, and finding the exports of a large CommonJS file takes
    Node longer than a bundle saves."""
    out = TARGET / "bundle/guide.mjs"
    require = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"
    command = [str(GUIDE / "node_modules/.bin/esbuild"), "guide.js", "--bundle", "--minify", "--format=esm"]
    command += ["--platform=node", "--target=node22", f"--banner:js={require}", f"--outfile={out}"]
    subprocess.run([*command, "--log-level=error"], cwd=GUIDE, check=True)
    return out


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
    sizes = {}
    for subject, members in subjects.items():
        folder = TARGET / subject
        shutil.rmtree(folder, ignore_errors=True)
        for name, source in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
        sizes[subject] = len(packed({name: (source.read_bytes(), 0o755) for name, source in members.items()}))
    (TARGET / "packages.json").write_text(json.dumps(sizes, indent=2) + "\n")


main()
