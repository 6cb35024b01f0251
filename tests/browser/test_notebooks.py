"""A notebook is executed on a real node, and what came of it is shown."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode

from playwright.sync_api import expect

from tests.browser.conftest import faults
from tests.gitserver import served


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


PNG = b"\x89PNG\r\n\x1a\n" + b"".join((
    chunk(b"IHDR", (60).to_bytes(4, "big") + (20).to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"),
    chunk(b"IDAT", zlib.compress((b"\0" + b"\x20\x80\xc0" * 60) * 20)),
    chunk(b"IEND", b""),
))  # fmt: skip
CELLS = [
    ("markdown", "# Seven times"),
    ("code", "times = 6", {"tags": ["parameters"]}),
    ("code", "import os, sys\nprint('of the kernel:', times * 7)\nprint('warned', file=sys.stderr)\ntimes * 7"),
    ("code", f"from IPython.display import Image, HTML, display\ndisplay(Image({PNG!r}))"),
    ("code", "display(HTML('<script>document.title = 1</script>'))"),
    ("code", "print(sys.prefix, [n for n in os.listdir(os.path.expanduser('~')) if 'upyter' in n or 'ipython' in n])"),
    ("code", "1 / (times - 7)"),
    ("code", "print('never')"),
]


def notebook():
    cells = []
    for kind, source, *more in CELLS:
        cell = {"cell_type": kind, "metadata": more[0] if more else {}, "source": source}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


def ended(page, how):
    page.wait_for_url("**/runs/**")
    expect(page.locator("#run-head .st")).to_have_text(re.compile(how), timeout=240_000)


def test_an_executed_notebook_is_kept_and_shown(open_desk, portal, lab, cluster):
    with served({"seven.ipynb": notebook()}) as url:
        page = open_desk(f"/workspaces/{lab}/jobs/new/")
        page.fill("[name=name]", "Seven")
        page.select_option("[name=kind]", "ipynb")
        page.fill("[name=command]", "seven.ipynb -p times 8")
        page.fill("[name=git_url]", url)
        page.click("#create")
        ended(page, "FINISHED|FAILED")
        expect(page.locator(".viewer")).to_contain_text("of the kernel: 56")
        expect(page.locator("#run-head .st")).to_have_text(re.compile("FINISHED"))
        page.click("text=The executed notebook", timeout=30_000)
        shown = page.locator("main")
        expect(shown).to_contain_text("never")
        expect(shown).to_contain_text("56")
        assert page.locator("main img").evaluate("image => image.naturalWidth") == 60
        page.screenshot(path="/tmp/nb.png", full_page=True)
        assert faults(page) == []
        with page.expect_download() as told:
            page.click("text=Download")
        kept = json.loads(told.value.path().read_bytes())
        assert b64encode(PNG).decode() in json.dumps(kept)

        page.goto(f"{portal.url}/workspaces/{lab}/jobs/new/")
        page.fill("[name=name]", "Seven fails")
        page.select_option("[name=kind]", "ipynb")
        page.fill("[name=command]", "seven.ipynb -p times 7")
        page.fill("[name=git_url]", url)
        page.click("#create")
        ended(page, "FINISHED|FAILED")
        page.screenshot(path="/tmp/nbrun.png", full_page=True)
        print(page.locator("#run-head").inner_text())
        expect(page.locator("#run-head")).to_contain_text(re.compile(r"Cell \[\d\] of the notebook failed: ZeroDiv"))
        page.click("text=The executed notebook", timeout=30_000)
        expect(page.locator("main")).to_contain_text("ZeroDivisionError: division by zero")
        page.screenshot(path="/tmp/nbfail.png", full_page=True)
        assert faults(page) == []
