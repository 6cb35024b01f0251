"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast

import pytest

from tests.running import ROOT

APPS = ("portal", "accounts", "workspaces", "clusters", "jobs")
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
