"""Cells of files for spreadsheets."""

from __future__ import annotations

import csv
import time

import pytest

from portal.spreadsheets import line


def cell(text):
    return next(csv.reader([line([text])]))[0] if "\n" not in text and "\r" not in text else line([text])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a", "a"),
        ("", ""),
        ("a = b", "a = b"),
        ("=1", "'=1"),
        (" \"'=1", "' \"'=1"),
        ("\ta", "'\ta"),
        ("a\t=1", "a\t'=1"),
        ("a\t \t=1", "a\t' \t=1"),
        ("a;b", "a;b"),
        (";=1", ";'=1"),
        ("a; +1;-2", "a;' +1;'-2"),
        ("\uff1d1", "'\uff1d1"),
    ],
)
def test_what_a_spreadsheet_would_take_for_a_formula_is_text(text, written):
    assert cell(text) == written


@pytest.mark.parametrize("text", ["\t" * 40_000, "a\n" + " \n" * 20_000 + "b", ";\t" * 20_000, "'\"" * 20_000])
def test_a_cell_full_of_blanks_takes_no_time(text):
    began = time.process_time()
    line([text])
    assert time.process_time() - began < 2
