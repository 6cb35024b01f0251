"""Rows that are made together are what Django would make of each."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import DataError, connection, transaction
from django.utils.timezone import now

from portal.bulk import insert, primary_keys
from portal.tasks.models import Output

pytestmark = pytest.mark.django_db

HOSTILE = ["it's", 'a "b"', "back\\slash", "{1,2}", "NULL", "%s", "$1", "", "two\nlines", "ü — 漢 🚢"]


def read(rows):
    names = [*rows[0]]
    found = {output.uuid: output for output in Output.objects.filter(uuid__in=[row["uuid"] for row in rows])}
    return [{name: getattr(found[row["uuid"]], name) for name in names} for row in rows]


@pytest.mark.parametrize("many", [1, 2, 40])
def test_each_row_has_its_own_values_and_what_all_have(many):
    at = now()
    rows = [
        {
            "uuid": uuid4(),
            "store": "outputs",
            "folder": HOSTILE[n % len(HOSTILE)],
            "nodes": {"hosts": [HOSTILE[n % len(HOSTILE)]], "of": {str(n): n}},
            "expected": None,
            "keep_at": None if n % 3 == 0 else at + timedelta(seconds=n),
            "agrees": (None, True, False)[n % 3],
            "head": n * 2**33,
        }
        for n in range(many)
    ]
    insert(Output, rows)
    assert read(rows) == rows
    assert primary_keys(Output, rows) == [Output.objects.get(uuid=row["uuid"]).pk for row in rows]
    blank = Output()
    for output in Output.objects.all():
        assert (output.ended, output.digests, output.cut) == (blank.ended, blank.digests, blank.cut)


def test_what_python_takes_for_equal_is_told_apart():
    rows = [{"uuid": uuid4(), "expected": {"a": value}} for value in (1, True, 1.0)]
    insert(Output, rows)
    assert [type(row["expected"]["a"]) for row in read(rows)] == [int, bool, float]


def test_no_rows_are_none():
    insert(Output, [])
    assert primary_keys(Output, []) == []
    assert not Output.objects.exists()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite takes a text of any length")
@pytest.mark.parametrize("folders", [("x" * 5000, "y"), ("x" * 5000, "x" * 5000)])
def test_what_is_too_long_is_refused_and_not_cut(folders):
    with pytest.raises(DataError), transaction.atomic():
        insert(Output, [{"uuid": uuid4(), "folder": folder} for folder in folders])
    assert not Output.objects.exists()
