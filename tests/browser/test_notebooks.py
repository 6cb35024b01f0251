"""A notebook is executed on a real node, and what came of it is shown."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode

from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.browser.test_sources import asked_for
from tests.gitserver import served


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


PNG = b"\x89PNG\r\n\x1a\n" + b"".join((
    chunk(b"IHDR", (60).to_bytes(4, "big") + (20).to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"),
    chunk(b"IDAT", zlib.compress((b"\0" + b"\x20\x80\xc0" * 60) * 20)),
    chunk(b"IEND", b""),
))  # fmt: skip
SECRET = "s3cret-of-the-notebook"
# The kernel is no rank of the run's, and what it starts is on all nodes.
SPAWNS = """from mpi4py import MPI
says = "from mpi4py import MPI; from os import uname; MPI.Comm.Get_parent().send(uname().nodename, 0)"
names = MPI.COMM_WORLD.Spawn(sys.executable, ["-c", says], maxprocs=1).recv(source=0)
print("alone:", MPI.COMM_WORLD.size, "and spawned on node", names[-1])"""
CELLS = [
    ("markdown", "# Seven times"),
    ("code", "times = 6", {"tags": ["parameters"]}),
    ("code", "import os, sys\nprint('of the kernel:', times * 7)\nprint('warned', file=sys.stderr)\ntimes * 7"),
    ("code", f"from IPython.display import Image, HTML, display\ndisplay(Image({PNG!r}))"),
    ("code", "display(HTML('<script>document.title = 1</script>'))"),
    ("code", "print(sys.prefix, [n for n in os.listdir(os.path.expanduser('~')) if 'upyter' in n or 'ipython' in n])"),
    ("code", SPAWNS),
    ("code", "print('token', os.environ.get('TOKEN')); 1 / (times - 7)"),
    ("code", "print('the last one')"),
]


def notebook():
    cells = []
    for kind, source, *more in CELLS:
        cell = {"cell_type": kind, "metadata": more[0] if more else {}, "source": source}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


def ended(page, how, seconds=240):
    page.wait_for_url("**/runs/**")
    expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED|FAILED"), timeout=seconds * 1000)
    expect(page.locator("#run-head .st")).to_have_text(re.compile(how))


def result(page):
    page.get_by_role("link", name="The executed notebook").click()
    page.wait_for_url("**/notebook/")
    return page.locator("main")


def test_an_executed_notebook_is_kept_and_shown(open_desk, portal, lab, cluster):
    with served({"seven.ipynb": notebook()}) as url:
        page = open_desk(f"/workspaces/{lab}/jobs/new/?cluster={cluster}")
        asked_for(page, "Seven", "seven.ipynb -p times 8", url, "ipynb")
        page.click("#create")
        ended(page, "FINISHED")
        expect(page.locator(".viewer")).to_contain_text("of the kernel: 56")
        expect(page.locator(".viewer")).to_contain_text("alone: 1 and spawned on node 1")
        cells = result(page)
        expect(cells).to_contain_text("the last one")
        expect(cells).to_contain_text(re.compile(r"/shared/\.engines/\S+ \[\]"))  # nothing of it is in the home
        assert page.locator("main img").evaluate("image => image.naturalWidth") == 60
        assert page.title().startswith("Notebook of Seven")
        assert faults(page) == []
        with page.expect_download() as told:
            page.click("text=Download")
        assert b64encode(PNG).decode() in told.value.path().read_text()


def test_a_cell_that_fails_is_named_and_the_notebook_shows_it_without_secrets(open_desk, portal, lab, cluster):
    with served({"seven.ipynb": notebook()}) as url:
        page = open_desk(f"/workspaces/{lab}/jobs/new/")
        asked_for(page, "Seven fails", "seven.ipynb -p times 7", url, "ipynb")
        page.click("text=Show advanced")
        page.get_by_label("Secret name 1").fill("TOKEN")
        page.get_by_label("Secret value 1").fill(SECRET)
        page.click("#create")
        ended(page, "FAILED")
        expect(page.locator("#run-head")).to_contain_text(
            "Cell [8] of the notebook failed: ZeroDivisionError: division"
        )
        cells = result(page)
        expect(cells).to_contain_text("ZeroDivisionError: division by zero")
        expect(cells).to_contain_text("token [hidden]")
        expect(cells).not_to_contain_text(SECRET)
        assert faults(page) == []
        with page.expect_download() as told:
            page.click("text=Download")
        assert SECRET not in told.value.path().read_text()
