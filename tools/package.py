"""Packs the edge function: target/lambda/redirect/bootstrap -> target/edge/redirect.zip.

The same inputs give the same bytes: members in a fixed order, with a fixed time and fixed modes, compressed by a fixed
version of Zopfli.
"""

import argparse
import base64
import datetime
import hashlib
import io
import json
import os
import re
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import zopfli
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

import last_flags
import recipe
from failure import Failure
from launchdarkly import Unavailable, item, needed_key, setting
from shell_secrets import KEY_VARIABLE, TOKEN_VARIABLE, preview_token

ROOT = Path(__file__).resolve().parents[1]
BINARY = Path("target/lambda/redirect/bootstrap")
CARRIER = Path("src/carrier/carrier.py")
PACKAGE = Path("target/edge/redirect.zip")

# The glibc of Amazon Linux 2023, on which the managed Python runtime runs.
# https://docs.aws.amazon.com/linux/al2023/release-notes/all-packages-AL2023.html
NEWEST_GLIBC = (2, 34)
# This project's limit; Lambda's is 50 MB. docs/performance.md shows what size costs. A store's client needs more.
MAX_BYTES = 2_500_000
MAX_BYTES_WITH_STORE = 3_250_000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="just package",
        description=f"Builds the edge function and packs it for Lambda@Edge: {PACKAGE}.",
        epilog="Arguments, SDK key and flag data are checked before anything is built.",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--flags", metavar="FILE", type=Path, help="flag data to bundle, instead of fetching it")
    choice.add_argument("--no-flags", action="store_true", help="bundle no flag data")
    options = parser.parse_args(arguments)
    try:
        key, token = needed_key(ROOT), preview_token()
        flags = None
        if options.flags:
            flags = flags_from(options.flags)
        elif key and not options.no_flags:
            flags = current_flags(key)
        recipe.run("build", key, token)
        members = {"redirect": (checked_binary(key, token), 0o755), "carrier.py": (read(CARRIER), 0o644)}
        if flags:
            members["flags.json"] = (flags, 0o644)
        print("Packing (15 seconds or so) ...", flush=True)
        package = packed(members)
        limit = MAX_BYTES if setting(ROOT, "source") == "launchdarkly" else MAX_BYTES_WITH_STORE
        if len(package) > limit:
            raise Failure(
                f"the package has {len(package):,} bytes, more than {limit:,}. Build with a smaller opt-level, or "
                'remove a dependency; docs/performance.md, "Start by size", says when to raise the limit.'
            )
        write(package)
        if flags and not options.flags:
            last_flags.write(ROOT, key, flags)
    except Failure as error:
        print(f"No package: {error}", file=sys.stderr)
        return 1
    report(package, members, limit)
    return 0


def read(path: Path) -> bytes:
    try:
        return (ROOT / path).read_bytes()
    except OSError as error:
        hint = "Build it first: just build." if path == BINARY else "Restore it from the repository."
        raise Failure(f"{path} cannot be read ({error.strerror}). {hint}") from None


# ---- The binary ------------------------------------------------------------------------------------------------------


def checked_binary(key: str, token: str) -> bytes:
    binary = read(BINARY)
    for problem in elf_problems(binary):
        raise Failure(f"{BINARY} {problem}")
    # Lambda@Edge has no environment variables, so a binary without the key would always use the sample flag.
    if key and key.encode() not in binary:
        raise Failure(
            f"{BINARY} was built without the SDK key in {KEY_VARIABLE}: offline, or with another key. "
            "Build it with the key in the environment: just build."
        )
    if token.encode() not in binary:
        raise Failure(
            f"{BINARY} was built without the preview token in {TOKEN_VARIABLE}: with no token, or with another. "
            "Build it with the token in the environment: just build."
        )
    return binary


def elf_problems(binary: bytes) -> Iterator[str]:
    """Reasons why the binary cannot run on Lambda@Edge."""
    try:
        program = ELFFile(io.BytesIO(binary))
        # Lambda@Edge has no arm64.
        if (program.elfclass, program.get_machine_arch()) != (64, "x64"):
            yield "is not for x86-64. Build it with: cargo lambda build --release --x86-64."
            return
        sections = {section.name: section for section in program.iter_sections()}
        strings = sections[".dynstr"].data() if ".dynstr" in sections else b""
    except ELFError as error:
        yield f"is not a complete ELF program: {error}. Build it again: just build."
        return
    if any(name == ".symtab" or name.startswith(".debug_") for name in sections):
        yield "is not stripped. Build it with the release profile, which has strip = true."
    versions = [tuple(map(int, found)) for found in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", b"\0" + strings)]
    if max(versions, default=NEWEST_GLIBC) > NEWEST_GLIBC:
        yield (
            "needs glibc {}.{}, but Lambda has {}.{}. Build it with cargo lambda, which links for that version.".format(
                *max(versions), *NEWEST_GLIBC
            )
        )


# ---- The flag data ---------------------------------------------------------------------------------------------------


def current_flags(key: str) -> bytes | None:
    """The fetched data, or the last package's data if only the date differs (so that the same inputs give the same
    package) or if LaunchDarkly is down."""
    last = last_flags.read(ROOT, key)
    try:
        fetched = fetched_flags(key)
    except Unavailable as error:
        kept = f"the last package's data of {json.loads(last)['fetched_at']}" if last else "no flag data"
        print(f"Flag data not fetched: {error}\nThe package gets {kept}.", file=sys.stderr, flush=True)
        return last
    except Failure as error:
        raise Failure(f"{error}\njust package --no-flags packs without flag data.") from None
    if last and last_flags.undated(last) == last_flags.undated(fetched):
        return last
    return fetched


def fetched_flags(key: str) -> bytes:
    """The flag and its references: prerequisites, and segments in rules and in other segments, level by level."""
    base_uri = setting(ROOT, "launchdarkly_base_uri")
    flag_key = setting(ROOT, "flag_key")
    print(f"Fetching the flag {flag_key} and its references from {base_uri} ...", flush=True)
    fetched: dict[str, dict[str, str]] = {"flags": {}, "segments": {}}
    wanted = [("flags", flag_key)]
    seen = set(wanted)
    while wanted:
        named: list[tuple[str, str]] = []
        for kind, name in wanted:
            text = item(base_uri, key, kind, name)
            if text is None and name == flag_key and kind == "flags":
                raise Failure(
                    f"the environment of {KEY_VARIABLE} has no flag {flag_key}. Create it in LaunchDarkly, or correct "
                    "flag_key in redirect.toml."
                )
            if text is None:
                print(f"  {kind[:-1]} {name} does not exist; LaunchDarkly evaluates without it", flush=True)
                continue
            fetched[kind][name] = text
            named += names_in(json.loads(text), kind)
        wanted = [entry for entry in dict.fromkeys(named) if entry not in seen]
        seen.update(wanted)
    # Joined as text, so that every item stays exactly as LaunchDarkly wrote it, including numbers.
    parts = [
        f'"{kind}":{{' + ",".join(f"{json.dumps(name)}:{text.strip()}" for name, text in items.items()) + "}"
        for kind, items in fetched.items()
    ]
    return f'{{"fetched_at":"{now()}",{",".join(parts)}}}\n'.encode()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def names_in(data: dict, kind: str) -> Iterator[tuple[str, str]]:
    """The items that a flag or a segment refers to."""
    try:
        if kind == "flags":
            for prerequisite in data.get("prerequisites") or []:
                yield "flags", str(prerequisite["key"])
        for rule in data.get("rules") or []:
            for clause in rule.get("clauses") or []:
                if clause.get("op") == "segmentMatch":
                    for segment in clause.get("values") or []:
                        yield "segments", str(segment)
    except (AttributeError, KeyError, TypeError):
        raise Failure(
            f"LaunchDarkly's {kind[:-1]} {data.get('key')} is malformed. It has {', '.join(sorted(map(str, data)))}."
        ) from None


def flags_from(path: Path) -> bytes:
    """Flag data from a file, verbatim, if it has the form that the edge function reads."""
    flag_key = setting(ROOT, "flag_key")
    form = '{"fetched_at": "2026-01-31T12:00:00Z", "flags": {KEY: ...}, "segments": {KEY: ...}}'
    try:
        text = path.read_bytes()
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        datetime.datetime.strptime(str(data.get("fetched_at")), "%Y-%m-%dT%H:%M:%SZ")
        if not isinstance(data.get("segments"), dict) or not isinstance(data.get("flags"), dict):
            raise ValueError("flags or segments is not an object")
    except OSError as error:
        raise Failure(f"--flags {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise Failure(f"--flags {path} does not have the form {form}: {error}.") from None
    if flag_key not in data["flags"]:
        raise Failure(f"--flags {path} does not have the flag {flag_key} (flag_key in redirect.toml).")
    return text


# ---- The package -----------------------------------------------------------------------------------------------------


def packed(members: dict[str, tuple[bytes, int]]) -> bytes:
    package = io.BytesIO()
    # 3 % smaller than zlib's best, in 15 seconds; more iterations gain almost nothing.
    with zopfli.ZipFile(package, "w", iterations=5) as archive:
        for name, (data, mode) in members.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            # Made by Unix, so that Lambda's unzip restores the mode: the binary must be executable.
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return package.getvalue()


def write(package: bytes) -> None:
    """Readable only by the owner: the binary contains the SDK key."""
    path = ROOT / PACKAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written completely or not at all, even if the disk is full or the run is interrupted.
    half = path.with_suffix(".zip.part")
    half.unlink(missing_ok=True)
    with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(package)
    half.replace(path)


def report(package: bytes, members: dict[str, tuple[bytes, int]], limit: int) -> None:
    digest = hashlib.sha256(package).digest()
    print(f"{PACKAGE}  {len(package):,} bytes (at most {limit:,})")
    for name, (data, mode) in members.items():
        print(f"  {stat.filemode(stat.S_IFREG | mode)} {len(data):>11,} bytes  {name}")
    if "flags.json" in members:
        flags = json.loads(members["flags.json"][0])
        print(f"  flags {', '.join(flags['flags'])}; {len(flags['segments'])} segments; of {flags['fetched_at']}")
    print(f"  SHA-256     {digest.hex()}")
    print(f"  CodeSha256  {base64.b64encode(digest).decode()}")


if __name__ == "__main__":
    sys.exit(main())
