"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re

import pytest

from tests.running import ROOT

APPS = ("portal", "accounts", "workspaces", "usage", "clusters", "jobs")
# They say by what they return whether anything has changed. Who does not look believes in what has not happened.
MUST_USE = {"move", "why_not_again"}


def unused_results(source):
    """The lines on which a call of one of them stands alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in MUST_USE:
                yield node.lineno, name


@pytest.mark.parametrize("app", APPS)
def test_what_a_change_of_status_returns_is_looked_at(app):
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / app).rglob("*.py"))
        for line, name in unused_results(path.read_text())
    ]
    assert found == []


def test_a_call_that_stands_alone_is_found():
    assert list(unused_results("run.move('failed')\nif run.move('failed'):\n    pass\n")) == [(1, "move")]


def out_of_order(source):
    """The lines where an action is a transaction whose entries of the audit may come before other locks, and where a
    row is locked together with its key: see the order of locks in portal/tasks/ledger.py.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and "transaction.atomic" in map(ast.unparse, node.decorator_list):
            yield node.lineno, "transaction.atomic"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("select_for_update"):
            words = {word.arg for word in node.keywords}
            if not words & {"no_key", "skip_locked"}:
                yield node.lineno, "select_for_update"


@pytest.mark.parametrize("app", ["accounts", "workspaces", "clusters", "jobs"])
def test_actions_lock_in_order(app):
    assert list(out_of_order((ROOT / app / "actions.py").read_text())) == []


def test_an_action_out_of_order_is_found():
    source = "@transaction.atomic\ndef act(row):\n    Row.objects.select_for_update().get()\n"
    assert list(out_of_order(source)) == [(2, "transaction.atomic"), (3, "select_for_update")]


def test_every_setting_is_told_to_whoever_operates_a_portal():
    read = re.findall(r'env\.\w+\("([A-Z_]+)"', (ROOT / "portal" / "settings.py").read_text())
    page = (ROOT / "docs" / "operating.md").read_text().partition("## Settings")[2]
    names = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]  # the first cell of each row
    told = re.findall(r"`([A-Z_]+)`", "".join(names))
    assert set(read) - set(told) == {"PORTAL_FAILPOINTS"}  # for tests
    assert set(told) <= set(read)


def test_the_usual_value_of_each_setting_that_is_a_number_is_told():
    source = (ROOT / "portal" / "settings.py").read_text()
    rows = (ROOT / "docs" / "operating.md").read_text().partition("## Settings")[2].splitlines()
    usual = {name: eval(text) for name, text in re.findall(r'env\.number\("([A-Z_]+)", ([\d_ *]+)\)', source)}  # noqa: S307
    wrong = {
        name: number
        for name, number in usual.items()
        if number and not any(f"`{name}`" in row and re.search(rf"\b{number}\b", row) for row in rows)
    }
    assert len(usual) > 10
    assert wrong == {}
