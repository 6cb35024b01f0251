"""A page that follows a chatty run: single bytes, a line of a MB, 100,000 lines a second."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from playwright.sync_api import sync_playwright

from tests.bench import measured
from tests.browser.conftest import browser_type_launch_args  # noqa: F401 (a fixture)
from tests.running import until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

MOST_FRAMES, MOST_HEAP = 10, 100  # a second; MB, after the browser has thrown away what it can
AT_ONCE = 3  # frames more than that may come after a quiet time: see portal.tasks.pace


@pytest.fixture(scope="module")
def browser(browser_type_launch_args):  # noqa: F811
    """Gone after this file: the event loop of Playwright is in the way of any other."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**browser_type_launch_args)
        yield browser
        browser.close()


def test_chatty(portal, client, small, job, table, browser):
    signal = "/shared/the-viewer-is-here"
    run = portal.call("run_again", job=job, command=f"chatty.py {signal}")
    context = browser.new_context()
    context.add_cookies([{"name": c.name, "value": c.value, "url": portal.url} for c in client.jar])
    page = context.new_page()
    frames = Counter()

    def note(frame):
        if isinstance(frame, bytes):
            frames[int(time.monotonic() - began)] += 1

    page.on("websocket", lambda socket: socket.on("framereceived", note))
    began = time.monotonic()
    page.goto(f"{portal.url}/runs/{run}/")
    page.get_by_text("waiting for the viewer").wait_for()
    devtools = context.new_cdp_session(page)
    before = _heap(devtools)
    portal.call("on_node", cluster=small, command=f"touch {signal}")
    page.get_by_text("THE END").wait_for(timeout=120_000)
    state = until(lambda: (s := portal.call("run_state", run=run))["kept"] and s, seconds=60, what="kept")
    assert state["stdout"] > 1_000_000 + 300_000 * 20
    most = measured.amount("frames in a second", max(frames.values()))
    heap = measured.amount("the page's heap", _heap(devtools))
    context.close()
    good = most <= MOST_FRAMES + AT_ONCE and heap <= MOST_HEAP
    bar = f"{MOST_FRAMES} + {AT_ONCE} frames, {MOST_HEAP} MB"
    table.add(
        "log_chatty", f"{most} frames in a second, {heap:.0f} MB of heap", f"{before:.0f} MB before", bar, good=good
    )


def _heap(devtools):
    """MB in use."""
    devtools.send("HeapProfiler.collectGarbage")
    return devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6
