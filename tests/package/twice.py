"""Builds and packs the function in two folders: the same inputs must give the same bytes. In the second folder, also
builds with a redirect.toml that needs a missing feature, which must fail with an error that names the feature.

Leaves target/edge/redirect.zip, which the tests of the carrier run. The key belongs to nobody.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEY = "sdk-00000000-0000-4000-8000-000000000000"
PACKAGE = Path("target/edge/redirect.zip")


def flag_data() -> Path:
    """The repository's flag as packaged data, with today's date: older data would not be used."""
    data = json.loads((ROOT / "src/flags/offline-flags.json").read_text())
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = ROOT / "target" / "packaged-flags.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"fetched_at": now, **data}))
    return path


def package(folder: Path, flags: Path) -> str:
    print(f"Building and packing in {folder} ...", file=sys.stderr, flush=True)
    environment = {**os.environ, "LAUNCHDARKLY_SDK_KEY": KEY}
    for name in ("REDIRECT_PREVIEW_TOKEN", "CARGO_TARGET_DIR"):
        environment.pop(name, None)
    command = ["just", "--justfile", str(folder / "justfile"), "package", "--flags", str(flags)]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return hashlib.sha256((folder / PACKAGE).read_bytes()).hexdigest()


def copy_of_the_tree(folder: Path) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".tools").symlink_to(ROOT / ".tools")


def dependencies_of_the_build(folder: Path) -> None:
    """Files from the registry are the same for both; cargo rebuilds everything that depends on a path."""
    for part in ("release", "x86_64-unknown-linux-gnu"):
        if (ROOT / "target" / part).exists():
            shutil.copytree(ROOT / "target" / part, folder / "target" / part)


def refusal(folder: Path, source: str) -> str:
    """Cargo's error for that source without its feature; only the build script runs, because the rest is built."""
    settings = folder / "redirect.toml"
    settings.write_text(re.sub("^source = .*", f'source = "{source}"', settings.read_text(), flags=re.MULTILINE))
    just = ["just", "--justfile", str(folder / "justfile"), "--evaluate", "static"]
    flags = subprocess.run(just, capture_output=True, text=True, check=True).stdout.strip()
    environment = {**os.environ, **dict([flags.split("=", 1)])}
    environment.pop("CARGO_TARGET_DIR", None)
    build = ["cargo", "lambda", "build", "--release"]
    outcome = subprocess.run(build, cwd=folder, env=environment, capture_output=True, text=True)
    return outcome.stderr if outcome.returncode else "it was built"


def main() -> int:
    flags = flag_data()
    here = package(ROOT, flags)
    with tempfile.TemporaryDirectory(prefix="redirect-") as elsewhere:
        copy_of_the_tree(Path(elsewhere))
        dependencies_of_the_build(Path(elsewhere))
        there = package(Path(elsewhere), flags)
        refusals = {source: refusal(Path(elsewhere), source) for source in ("dynamodb", "redis")}
    if here != there:
        print(f"The package depends on the folder it is built in: {here} here, {there} elsewhere", file=sys.stderr)
        return 1
    for source, said in refusals.items():
        expected = f'redirect.toml: source is "{source}"; expected a build with it: '
        expected += f"just build, or cargo build --features {source}"
        if expected not in said:
            print(f"No {expected!r} in: {said}", file=sys.stderr)
            return 1
    print(f"Both packages are the same: {here}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
