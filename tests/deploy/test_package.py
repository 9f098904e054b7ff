"""package.py: the content of the package, reproducibility, and invalid inputs."""

import base64
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import last_flags
import package as module
import recipe
from harness import CANARY, ROOT, TOKEN

FLAG = (
    '{"key":"rebrand","version":7,"on":true,"variations":[true,false],'
    '"prerequisites":[{"key":"paid","variation":0}],"salt":"s","big":12345678901234567890.50}'
)
PREREQUISITE = (
    '{"key":"paid","version":1,"on":true,"variations":[true,false],'
    '"rules":[{"clauses":[{"op":"segmentMatch","values":["team","lost"]}]}]}'
)
SEGMENT = (
    '{"key":"team","version":1,'
    '"rules":[{"clauses":[{"op":"segmentMatch","values":["inner"]},{"op":"in","values":["x"]}]}]}'
)
INNER = '{"key":"inner","version":1,"rules":[{"clauses":[{"op":"segmentMatch","values":["team"]}]}]}'
ITEMS = {
    "/sdk/flags/rebrand": FLAG,
    "/sdk/flags/paid": PREREQUISITE,
    "/sdk/segments/team": SEGMENT,
    "/sdk/segments/inner": INNER,
}


def elf(machine=62, bits=2, symbols=False, glibc=("2.17", "2.34"), key=CANARY):
    """A program that has only headers: sections with the names of symbol versions, and the key in its data."""
    versions = b"\0libc.so.6\0" + b"".join(f"GLIBC_{version}\0".encode() for version in glibc)
    contents = [(".dynstr", versions), (".rodata", b"key " + key.encode())]
    if symbols:
        contents.append((".symtab", b"\0" * 24))
    contents.append((".shstrtab", b""))
    texts = b"\0" + b"".join(name.encode() + b"\0" for name, _ in contents)
    body, headers = b"", struct.pack("<IIQQQQIIQQ", *[0] * 10)
    for name, data in contents:
        data = texts if name == ".shstrtab" else data
        offset = texts.index(b"\0" + name.encode() + b"\0") + 1
        headers += struct.pack("<IIQQQQIIQQ", offset, 3, 0, 0, 64 + len(body), len(data), 0, 0, 1, 0)
        body += data
    start = b"\x7fELF" + bytes([bits, 1, 1]) + b"\0" * 9
    count = len(contents) + 1
    start += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, count, count - 1)
    return start + body + headers


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "one")


def make_tree(folder):
    """The files that package.py reads, so that it does not use the project's own target folder."""
    (folder / "src/carrier").mkdir(parents=True)
    (folder / "src/carrier/carrier.py").write_text("# the carrier\n")
    shutil.copy(ROOT / "redirect.toml", folder)
    binary = folder / "target/lambda/redirect/bootstrap"
    binary.parent.mkdir(parents=True)
    binary.write_bytes(elf())
    return folder


@pytest.fixture
def pack(monkeypatch, capsys):
    """Returns the exit status and the output, which must not contain the key. The build already exists."""

    recipes = []

    def run(tree, *arguments, key=CANARY, **environment):
        for name in [name for name in os.environ if name.startswith(("LAUNCHDARKLY_", "REDIRECT_"))]:
            monkeypatch.delenv(name)
        for name, value in {"LAUNCHDARKLY_SDK_KEY": key, **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(module, "ROOT", tree)
        monkeypatch.setattr(recipe, "run", lambda name, *secrets: recipes.append((name, *secrets)))
        status = module.main([str(argument) for argument in arguments])
        said = "".join(capsys.readouterr())
        assert CANARY not in said and TOKEN not in said
        return status, said

    return run


def package(tree):
    return tree / "target/edge/redirect.zip"


# ---- Content ---------------------------------------------------------------------------------------------------------


def test_the_package_has_only_its_members(tree, pack):
    status, said = pack(tree, "--no-flags")
    assert status == 0, said
    with zipfile.ZipFile(package(tree)) as archive:
        assert archive.testzip() is None
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        times = {entry.date_time for entry in archive.infolist()}
        assert archive.read("redirect") == (tree / "target/lambda/redirect/bootstrap").read_bytes()
        assert archive.read("carrier.py") == b"# the carrier\n"
    assert modes == {"redirect": 0o100755, "carrier.py": 0o100644}
    assert times == {(1980, 1, 1, 0, 0, 0)}


def test_the_unzipped_binary_is_executable_and_only_writable_by_its_owner(tree, tmp_path, pack):
    pack(tree, "--no-flags")
    out = tmp_path / "out"
    subprocess.run(["unzip", "-q", package(tree), "-d", out], check=True) if shutil.which("unzip") else unzip(tree, out)
    assert os.access(out / "redirect", os.X_OK)
    for file in out.iterdir():
        assert not file.stat().st_mode & 0o022, f"{file.name} is writable by others"


def unzip(tree, out):
    """Like `unzip`, including modes."""
    with zipfile.ZipFile(package(tree)) as archive:
        for entry in archive.infolist():
            Path(archive.extract(entry, out)).chmod(entry.external_attr >> 16 & 0o777)


def test_the_package_is_only_readable_by_its_owner(tree, pack):
    pack(tree, "--no-flags")
    assert package(tree).stat().st_mode & 0o777 == 0o600


def test_the_report_shows_size_digest_and_members(tree, pack):
    _, said = pack(tree, "--no-flags")
    data = package(tree).read_bytes()
    digest = hashlib.sha256(data)
    assert f"{len(data):,} bytes" in said
    assert digest.hexdigest() in said
    assert base64.b64encode(digest.digest()).decode() in said
    binary = f"{len(elf()):,}"
    assert re.search(rf"-rwxr-xr-x +{binary} bytes  redirect\n", said)
    assert re.search(r"-rw-r--r-- +14 bytes  carrier.py\n", said)


# ---- The same inputs, the same bytes ---------------------------------------------------------------------------------


def test_two_folders_produce_the_same_package(tmp_path, pack):
    flags = tmp_path / "flags.json"
    flags.write_text('{"fetched_at":"2026-01-31T12:00:00Z","flags":{"rebrand":{"key":"rebrand"}},"segments":{}}')
    first, second = make_tree(tmp_path / "one"), make_tree(tmp_path / "elsewhere" / "two")
    for file in second.rglob("*"):
        if file.is_file():
            os.utime(file, (1, 1))
            file.chmod(0o600)
    for tree in (first, second):
        status, said = pack(tree, "--flags", flags)
        assert status == 0, said
    assert package(first).read_bytes() == package(second).read_bytes()


def test_another_binary_produces_another_package(tree, pack):
    pack(tree, "--no-flags")
    before = package(tree).read_bytes()
    (tree / "target/lambda/redirect/bootstrap").write_bytes(elf() + b"more")
    pack(tree, "--no-flags")
    assert package(tree).read_bytes() != before


# ---- Flag data -------------------------------------------------------------------------------------------------------


@pytest.fixture
def launchdarkly(launchdarkly):
    launchdarkly.answers = {path: (200, body) for path, body in ITEMS.items()}
    return launchdarkly


def test_the_flag_and_its_references_are_bundled_verbatim(tree, launchdarkly, pack):
    status, said = pack(tree, LAUNCHDARKLY_BASE_URI=launchdarkly.address + "/")
    assert status == 0, said
    assert "segment lost does not exist" in said
    with zipfile.ZipFile(package(tree)) as archive:
        text = archive.read("flags.json").decode()
    for item in ITEMS.values():
        assert item in text, "items stay as LaunchDarkly wrote them, including numbers"
    data = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", data["fetched_at"])
    assert (list(data["flags"]), list(data["segments"])) == (["rebrand", "paid"], ["team", "inner"])
    assert [path for path, _ in launchdarkly.asked] == [
        "/sdk/flags/rebrand", "/sdk/flags/paid", "/sdk/segments/team", "/sdk/segments/lost", "/sdk/segments/inner"
    ]  # fmt: skip
    assert {key for _, key in launchdarkly.asked} == {CANARY}


def test_the_flag_key_is_read_from_the_settings(tree, launchdarkly, pack):
    launchdarkly.answers["/sdk/flags/other%20one"] = (200, '{"key":"other one"}')
    settings = tree / "redirect.toml"
    settings.write_text(settings.read_text().replace('flag_key = "rebrand"', 'flag_key = "other one"'))
    status, said = pack(tree, LAUNCHDARKLY_BASE_URI=launchdarkly.address)
    assert status == 0, said
    assert "flags other one" in said


def test_flag_data_from_a_file_is_bundled_verbatim(tree, tmp_path, pack):
    flags = tmp_path / "mine.json"
    text = '{ "fetched_at": "2026-01-31T12:00:00Z",\n "flags": {"rebrand": {}}, "segments": {} }'
    flags.write_text(text)
    assert pack(tree, "--flags", flags)[0] == 0
    with zipfile.ZipFile(package(tree)) as archive:
        assert archive.read("flags.json").decode() == text
        assert archive.getinfo("flags.json").external_attr >> 16 == 0o100644


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        ((401, ""), "rejected the SDK key (401"),
        ((403, ""), "rejected the SDK key (403"),
        ((404, ""), "has no flag rebrand"),
        ((302, ""), "answered 302 for the flag rebrand"),
        ((200, "<html>"), "is not flag data"),
        ((200, "[]"), "is not flag data"),
        ((200, '{"key":"rebrand","prerequisites":[1]}'), "malformed"),
        ((200, '{"key":"rebrand","rules":{"a":1}}'), "malformed"),
    ],
)
def test_there_is_no_package_if_flag_data_cannot_be_fetched(tree, launchdarkly, answer, reported, pack):
    launchdarkly.answers["/sdk/flags/rebrand"] = answer
    status, said = pack(tree, LAUNCHDARKLY_BASE_URI=launchdarkly.address)
    assert status == 1
    assert reported in said
    assert "just package --no-flags" in said
    assert not package(tree).exists()
    assert "/elsewhere" not in [path for path, _ in launchdarkly.asked], "the key does not follow a redirect"


def test_without_launchdarkly_the_package_has_the_last_flag_data_or_none(tree, launchdarkly, pack):
    status, said = pack(tree, LAUNCHDARKLY_BASE_URI="http://127.0.0.1:9")
    assert status == 0
    assert "cannot be reached at http://127.0.0.1:9" in said and "The package gets no flag data." in said
    with zipfile.ZipFile(package(tree)) as archive:
        assert "flags.json" not in archive.namelist()

    pack(tree, LAUNCHDARKLY_BASE_URI=launchdarkly.address)
    before = package(tree).read_bytes()
    launchdarkly.answers["/sdk/segments/team"] = (500, "")
    status, said = pack(tree, LAUNCHDARKLY_BASE_URI=launchdarkly.address)
    assert status == 0
    assert "answered 500 for the segment team" in said and "the last package's data" in said
    assert package(tree).read_bytes() == before


def test_a_number_in_another_notation_is_a_change():
    first, second = (f'{{"fetched_at":"x","flags":{{"a":{number}}}}}'.encode() for number in ("0.5", "0.50"))
    assert last_flags.undated(first) == last_flags.undated(first.replace(b"x", b"y"))
    assert last_flags.undated(first) != last_flags.undated(second)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (None, "cannot be read"),
        ("{", "does not have the form"),
        ("[]", "does not have the form"),
        ('{"flags":{"rebrand":{}},"segments":{}}', "does not have the form"),
        ('{"fetched_at":"yesterday","flags":{"rebrand":{}},"segments":{}}', "does not have the form"),
        ('{"fetched_at":"2026-01-31T12:00:00Z","flags":{"rebrand":{}}}', "does not have the form"),
        ('{"fetched_at":"2026-01-31T12:00:00Z","flags":{},"segments":{}}', "does not have the flag rebrand"),
    ],
)
def test_flag_data_from_a_file_is_checked(tree, tmp_path, text, reported, pack):
    flags = tmp_path / "mine.json"
    if text is not None:
        flags.write_text(text)
    status, said = pack(tree, "--flags", flags)
    assert (status, reported in said) == (1, True), said


# ---- Invalid inputs --------------------------------------------------------------------------------------------------


def test_the_preview_token_must_be_in_the_binary(tree, pack):
    status, said = pack(tree, "--no-flags", REDIRECT_PREVIEW_TOKEN=TOKEN)
    assert status == 1 and "was built without the preview token in REDIRECT_PREVIEW_TOKEN" in said
    (tree / "target/lambda/redirect/bootstrap").write_bytes(elf(key=f"{CANARY} {TOKEN}"))
    assert pack(tree, "--no-flags", REDIRECT_PREVIEW_TOKEN=TOKEN)[0] == 0
    status, said = pack(tree, "--no-flags", REDIRECT_PREVIEW_TOKEN="short")
    assert status == 1 and "REDIRECT_PREVIEW_TOKEN is not a valid preview token" in said


@pytest.mark.parametrize(
    ("binary", "reported"),
    [
        (elf(key="no key"), "was built without the SDK key"),
        (b"#!/bin/sh\n" + CANARY.encode(), "is not a complete ELF program"),
        (b"", "is not a complete ELF program"),
        (elf(machine=183), "is not for x86-64"),
        (elf(bits=1), "is not for x86-64"),
        (elf(symbols=True), "is not stripped"),
        (elf(glibc=("2.2.5", "2.35")), "needs glibc 2.35, but Lambda has 2.34"),
        (elf()[:100], "is not a complete ELF program"),
    ],
    ids=["offline", "script", "empty", "arm64", "32 bit", "not stripped", "newer glibc", "damaged"],
)
def test_a_binary_that_cannot_run_is_rejected(tree, binary, reported, pack):
    (tree / "target/lambda/redirect/bootstrap").write_bytes(binary)
    status, said = pack(tree, "--no-flags")
    assert (status, reported in said) == (1, True), said
    assert not package(tree).exists()


def test_a_real_program_is_parsed():
    """A program from a real linker, with all its sections: this Python, which may need a newer glibc than Lambda's."""
    problems = list(module.elf_problems(Path(sys.executable).resolve().read_bytes()))
    assert [problem for problem in problems if "glibc" not in problem and "stripped" not in problem] == []


@pytest.mark.parametrize(
    ("key", "reported"),
    [
        ("", "LAUNCHDARKLY_SDK_KEY is not set"),
        ("mob-c0ffee00-0000-4000-8000-00000000cafe", "a mobile key"),
        ("api-c0ffee00-0000-4000-8000-00000000cafe", "an API access token"),
        (CANARY + "\nX-Header: 1", "has invalid characters"),
    ],
)
def test_an_invalid_key_is_rejected(tree, key, reported, pack):
    status, said = pack(tree, "--no-flags", key=key)
    assert (status, reported in said) == (1, True), said


def test_a_package_that_is_too_large_is_rejected(tree, pack):
    (tree / "target/lambda/redirect/bootstrap").write_bytes(elf() + os.urandom(2_500_000))
    status, said = pack(tree, "--no-flags")
    assert status == 1
    assert "more than 2,500,000" in said
    assert not package(tree).exists()


def test_a_binary_that_is_not_built_yet_is_reported(tree, pack):
    (tree / "target/lambda/redirect/bootstrap").unlink()
    status, said = pack(tree, "--no-flags")
    assert (status, "just build" in said) == (1, True)


def test_a_failed_run_leaves_no_partial_package(tree, pack):
    pack(tree, "--no-flags")
    before = package(tree).read_bytes()
    (tree / "target/lambda/redirect/bootstrap").write_bytes(b"broken")
    pack(tree, "--no-flags")
    assert package(tree).read_bytes() == before
    assert [file.name for file in package(tree).parent.iterdir()] == ["redirect.zip"]


# ---- With a store as the source --------------------------------------------------------------------------------------


def with_settings(tree, **fields):
    path = tree / "redirect.toml"
    text = path.read_text()
    for name, value in fields.items():
        text, count = re.subn(rf'^{name} = ".*"', f'{name} = "{value}"', text, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(text)


def test_a_store_without_events_needs_no_key(tree, pack):
    with_settings(tree, source="dynamodb", events="off")
    (tree / "target/lambda/redirect/bootstrap").write_bytes(elf().replace(CANARY.encode(), b"x" * len(CANARY)))
    status, said = pack(tree, key="")
    assert status == 0, said
    with zipfile.ZipFile(package(tree)) as archive:
        assert archive.namelist() == ["redirect", "carrier.py"]
    with_settings(tree, events="full")
    status, said = pack(tree, key="")
    assert status == 1 and "LAUNCHDARKLY_SDK_KEY is not set" in said
