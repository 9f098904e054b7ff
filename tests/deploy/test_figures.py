"""The figures in docs/ match the runs in docs/figures."""

import pytest

import figures
from harness import ROOT


@pytest.fixture(scope="module")
def runs():
    return figures.Runs()


def test_every_run_has_its_machine_date_and_commit(runs):
    for run in runs.all.values():
        assert all(run["machine"][field] for field in ("date", "commit", "cpu", "cpus", "kernel"))


def test_pages_and_pictures_show_the_results_of_the_runs(runs):
    for name, text in figures.pages(runs).items():
        assert (ROOT / name).read_text() == text, f"{name} differs from docs/figures. Run: just figures"


def test_every_table_has_a_place():
    text = "".join((ROOT / page).read_text() for page in figures.PAGES)
    for name in figures.TABLES:
        assert f"<!-- figures: {name} -->\n" in text
