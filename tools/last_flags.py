"""The flag data of the last package. Unchanged data keeps its date; it is bundled while LaunchDarkly is down."""

import json
from pathlib import Path

from launchdarkly import fingerprint


def path(root: Path, key: str) -> Path:
    """Named by the key, so that no environment's data gets into another's package."""
    return root / "target" / "edge" / f"flags-{fingerprint(key)}.json"


def read(root: Path, key: str) -> bytes | None:
    try:
        return path(root, key).read_bytes()
    except FileNotFoundError:
        return None


def write(root: Path, key: str, flags: bytes) -> None:
    file = path(root, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".part")
    half.write_bytes(flags)
    half.replace(file)


def undated(flags: bytes) -> object:
    """Numbers stay as they are written."""
    data = json.loads(flags, parse_float=str, parse_int=str)
    return data | {"fetched_at": ""}
