"""Notebooks that are made to hurt: their page is small and quick, and what is kept has no secret in it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs import notebooks
from tests.jobs.test_notebooks import ONNODE, Hider, code, data, notebook, on_node


def many(part, size=notebooks.MOST):
    """A notebook that the portal keeps, full of these."""
    head, tail = b'{"nbformat":4,"cells":[{"cell_type":"code","outputs":[', b"]}]}"
    return head + b",".join([part] * ((size - len(head + tail)) // (len(part) + 1))) + tail


HOSTILE = [
    b"[]", b"{}", b'{"a":1}', b"1.5", b'"ab"', b'{"output_type":"stream"}', b'{"output_type":"display_data","data":{}}',
    b'{"output_type":"display_data","data":{"image/png":""}}', b'{"output_type":"error"}',
]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_none_is_read_into_so_much_memory_that_others_have_none(part):
    """Twenty megabytes of empty lists are hundreds as Python has them, for each look at the page."""
    with pytest.raises(notebooks.Malformed, match="too long to be shown"):
        notebooks.read(many(part))


@pytest.mark.parametrize("part", [part for part in HOSTILE if b"output_type" in part])
def test_a_page_of_empty_outputs_has_an_end_and_says_so(part):
    cells = notebooks.read(many(part, 3 * 1024 * 1024))
    assert len(cells[0].pieces) < 25_000
    assert "more, for which there is no room on this page." in cells[0].pieces[-1].missing


def test_a_page_of_empty_lines_has_an_end():
    text = {"output_type": "stream", "text": "\n" * 49_000 + "x"}
    cells = notebooks.read(notebook(*[code(text)] * 300))
    shown = sum(piece.text.count("\n") for cell in cells for piece in cell.pieces)
    assert shown * notebooks._OF_A_LINE <= notebooks.MOST_SHOWN + 2_000_000


def test_cells_that_are_not_shown_are_counted():
    cells = notebooks.read(notebook(*[code()] * (notebooks.MOST_CELLS + 5)))
    assert cells[-1].source == "… 5 more cells, which the file has"


SECRET, PIN = "hunter-22", "27182818"


def test_secrets_are_neither_names_nor_numbers_of_what_is_kept(tmp_path):
    found = {SECRET: 1, "pin": int(PIN), "at": [int(PIN), True, None], "deep": {"x": {f"a {SECRET}": []}}}
    (tmp_path / "executing.ipynb").write_bytes(notebook(code(data(**{"application/json": found}), count=12)))
    on_node["publish"](tmp_path, Hider([SECRET, PIN]))
    kept = (tmp_path / "executed.ipynb").read_text()
    assert SECRET not in kept
    assert PIN not in kept
    assert json.loads(kept)["cells"][0]["execution_count"] == 12


HURTS = """
import json, pathlib, resource, runpy, sys
top, folder = map(pathlib.Path, sys.argv[1:])
hider = runpy.run_path(str(top / "hiding.py"))["Hider"](["hunter-22"])
publish = runpy.run_path(str(top / "notebook.py"))["publish"]
resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
publish(folder, hider)
print("and the verdict is written")
"""


def test_one_for_which_the_node_has_no_memory_takes_no_verdict_with_it(tmp_path):
    (tmp_path / "executing.ipynb").write_bytes(many(b"[]"))
    done = subprocess.run(
        [sys.executable, "-ISc", HURTS, str(ONNODE), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "and the verdict is written" in done.stdout, done.stderr[-300:]
    assert not (tmp_path / "executed.ipynb").exists(), "nor is it kept with what may be secret"
