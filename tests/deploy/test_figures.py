"""The figures of docs/ are those of the runs whose JSON is beside them."""

import pytest

import figures
from harness import ROOT


@pytest.fixture(scope="module")
def runs():
    return figures.Runs()


def test_every_run_names_its_machine_date_and_commit(runs):
    for run in runs.all.values():
        assert all(run["machine"][field] for field in ("date", "commit", "cpu", "cpus", "kernel"))


def test_pages_and_pictures_show_what_the_runs_measured(runs):
    for name, text in figures.pages(runs).items():
        assert (ROOT / name).read_text() == text, f"{name} differs from docs/figures. Run: just figures"


def test_every_table_has_a_place():
    text = "".join((ROOT / page).read_text() for page in figures.PAGES)
    for name in figures.TABLES:
        assert f"<!-- figures: {name} -->\n" in text
