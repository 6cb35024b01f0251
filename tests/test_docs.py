"""What the pages of docs/ say that a program can look up. The settings are in test_house.py."""

from __future__ import annotations

import re
import tomllib

import pytest
from django.core.exceptions import ValidationError
from django.core.management import get_commands

from jobs import rules, schedules
from jobs.actions import MOST_WAITING
from jobs.models import Firing, Kind, Run
from tests.running import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
JOBS = " ".join((ROOT / "docs" / "jobs.md").read_text().split())
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def section(title):
    return JOBS.partition(title)[2].partition(" ## ")[0]


@pages
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pages
def test_files_that_are_named_are_there(page):
    top = {path.name for path in ROOT.iterdir()}
    named = {name.partition("::")[0] for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?)", page.read_text())}
    assert [name for name in sorted(named) if name.split("/")[0] in top - {"var"} and not (ROOT / name).exists()] == []


@pages
def test_commands_that_are_named_are_there(page):
    named = set(re.findall(r"manage\.py ([a-z_]+)", page.read_text()))
    assert named <= get_commands().keys()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


@pages
def test_settings_that_are_named_are_read(page):
    read = (ROOT / "portal" / "settings.py").read_text()
    named = set(re.findall(r"`(PORTAL_[A-Z_]+)", page.read_text()))
    assert {name for name in named if f'"{name}"' not in read} == set()


def test_each_dependency_is_in_the_readme():
    table = (ROOT / "README.md").read_text().partition("## Dependencies")[2].lower()
    named = set(re.findall(r"[a-z][\w-]+", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[\[=]", words)[0] for words in needed} <= named


def test_the_words_of_buttons_and_fields_are_those_of_the_pages():
    """In docs/jobs.md: what begins with a capital letter in *this* or **that**."""
    shown = [*(ROOT / "templates").rglob("*.html"), *(ROOT / "jobs").rglob("*.py"), ROOT / "clusters" / "models.py"]
    words = " ".join(" ".join(path.read_text() for path in shown).split())
    named = re.findall(r"\*{1,2}([A-Z][^*]+)\*{1,2}", re.sub(r"`[^`]*`", "", JOBS))
    assert len(named) > 50
    assert [label for label in named if label not in words] == []


def test_what_is_said_to_be_reserved_is_refused():
    told = section("Reserved, and refused: ").partition(" ### ")[0]
    plain, families = (re.findall(r"`([A-Z]\w+)(…?)`", part) for part in told.split(" behind it, "))
    names = [name + "X" * bool(more) for name, more in plain + families] + [f"{name}_X" for name, _ in families]
    assert len(names) > 30
    for name in names:
        with pytest.raises(ValidationError, match="is set by the portal"):
            rules.environment([(name, "1")])


def test_each_reserved_name_is_told():
    told = section("Reserved, and refused: ").partition(" ### ")[0]
    assert [name for name in re.findall("[A-Z]{2,}", rules._RESERVED.pattern) if name not in told] == []


def test_the_variables_that_a_run_has_are_told():
    made = set(re.findall(r'"(COXSWAIN_\w+)": ', (ROOT / "jobs" / "plans.py").read_text())) | {"COXSWAIN_RANK"}
    assert set(re.findall("`(COXSWAIN_[A-Z]+)`", section("### Variables"))) == made


def test_each_status_outcome_and_type_is_told():
    rows = re.findall(r"\| ([A-Z]+) \|", section("## 5. What a run is"))
    assert set(rows) == {state.badge.word for state in Run.STATES.values()} | {"CANCELLING"}
    assert all(look.word in section("## 7. Again and again") for look in Firing.LOOKS.values())
    assert re.findall(r"\| (\w+ ?\w*) \| (?:a file|what|`rep)", JOBS) == [kind.label for kind in Kind]


@pytest.mark.parametrize(
    "said",
    [
        f"at most {MOST_WAITING} wait for it",
        f"up to {schedules.MOST_OF_A_JOB}.",
        f"(up to {schedules.MOST_QUEUED} times)",
        f"At most {rules.MOST_VARIABLES} variables, {rules.MOST_ENVIRONMENT // 1000} kB",
        f"longer than {('zero', 'one', 'two', 'three', 'four', 'five')[schedules.LATE.seconds // 60]} minutes",
    ],
)
def test_a_bound_is_told_as_it_is(said):
    assert said in JOBS
