"""What `just invoke` reports about the flag, and how it finds events. tests/it tests the function itself."""

import re
from xml.etree import ElementTree

import pytest

import invoke
import picture
from failure import Failure


def line(reason="FALLTHROUGH", source="launchdarkly", **more):
    return {"reason": reason, "source": source, "data": "fresh", "message": "302 to /site: why", **more}


def test_a_store_as_the_source_is_compiled_in(monkeypatch, tmp_path):
    monkeypatch.setattr(invoke, "ROOT", tmp_path)
    for source, expected in (("launchdarkly", []), ("dynamodb", ["--features", "dynamodb"])):
        (tmp_path / "redirect.toml").write_text(f'source = "{source}"\n')
        assert invoke.features() == expected


@pytest.mark.parametrize(
    ("lines", "text", "is_evaluated"),
    [
        ([line(flag_version=7)], "The flag was evaluated in version 7, from LaunchDarkly (fresh data).", True),
        ([line(source="bundled", data="bundled")], "The flag was evaluated, from the repository (bundled data).", True),
        ([line(), line("ERROR")], "The flag was evaluated, from LaunchDarkly (fresh data).", True),
        ([line("ERROR"), {"message": "pass-through"}], "The flag was not evaluated: why.", False),
        ([{"message": "pass-through"}], "No event needed the flag.", True),
    ],
)
def test_a_run_reports_whether_the_flag_was_evaluated(lines, text, is_evaluated):
    assert invoke.evaluated(lines) == (text, is_evaluated)


@pytest.mark.parametrize("name", ["ipv4", "ipv4.json", "events/ipv4.json"])
def test_an_event_is_found_by_each_of_its_names(name, monkeypatch):
    monkeypatch.chdir(invoke.ROOT)
    assert invoke.found(name).resolve() == invoke.ROOT / "events" / "ipv4.json"


@pytest.mark.parametrize(("name", "why"), [("README.md", "not JSON"), ("ipv5", "Available: ab-test, ")])
def test_a_file_that_is_not_an_event_is_reported(name, why, monkeypatch, capsys):
    monkeypatch.chdir(invoke.ROOT)
    with pytest.raises(Failure, match=why):
        invoke.found(name)
    assert invoke.main([name]) == 1
    assert why in capsys.readouterr().err


def test_the_readmes_picture_shows_every_event_and_no_local_paths():
    svg = picture.PICTURE.read_text()
    text = "\n".join(ElementTree.fromstring(svg).itertext()).replace("\xa0", " ")
    for event in (invoke.ROOT / "events").glob("*.json"):
        assert re.search(rf"^{event.stem} ", text, re.MULTILINE), f"{event.stem}: run just picture"
    count = len(list((invoke.ROOT / "events").glob("*.json")))
    assert f"{count} of {count} events had their expected outcome." in text
    assert "@font-face" not in svg, "a picture must not load fonts"
    assert not re.search(r"/(home|root|tmp|Users)/", svg)
