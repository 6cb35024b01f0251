"""A real portal and Chromium. `desk` is a signed-in page whose console must stay silent."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.running import RunningPortal, until

PATIENCE = 30_000  # ms: for a busy machine; Playwright itself has 5 s for what is expected
expect.set_options(timeout=PATIENCE)

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OF_COLOURS = ["color-contrast", "link-in-text-block"]
WIDEST = """[...document.body.querySelectorAll("*")].reduce((widest, one) =>
    one.getBoundingClientRect().right > widest.getBoundingClientRect().right ? one : widest).outerHTML.slice(0, 200)"""
# Colours do not change at once; what turns for ever is not waited for.
SETTLED = """Promise.all(document.getAnimations().filter(one => isFinite(one.effect.getComputedTiming().endTime))
    .map(one => one.finished.catch(() => 0)))"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(600))  # the first one waits for a portal, a cluster and packages


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    quiet = ["--no-sandbox", "--disable-background-networking"]
    return {**browser_type_launch_args, "executable_path": chromium, "args": quiet}


@pytest.fixture(scope="session")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-browser-"))
    portal = RunningPortal(folder, collected=True).start()
    portal.who = portal.call("setup")
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(portal):
    workspace = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    return workspace


@pytest.fixture(scope="session")
def cluster(portal, lab):
    cluster = portal.call("make_cluster", workspace=lab, nodes=2, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=cluster)["status"] == "running", seconds=120, what="it")
    return cluster


@pytest.fixture(scope="session")
def session_cookies(portal, browser):
    """Of alice, signed in once."""
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, portal)
    cookies = context.cookies()
    context.close()
    return cookies


def sign_in(page, portal):
    page.goto(f"{portal.url}/accounts/login/")
    page.fill("[name=login]", portal.who["email"])
    page.fill("[name=password]", portal.who["password"])
    page.click("main button[type=submit]")
    page.wait_for_url(f"{portal.url}/")


@pytest.fixture
def open_desk(portal, browser, session_cookies):
    """Opens signed-in pages. At the end: no error in a script, and nothing that the content security policy forbade."""
    contexts, complaints = [], []

    def listen(message):
        # A lost connection is written to the console by the browser itself.
        if (
            message.type in ("error", "warning")
            and "ERR_CONNECTION" not in message.text
            and "WebSocket" not in message.text
        ):
            complaints.append(message.text)

    def open_one(path="/", **options):
        # Still: else colours are caught on their way, and what turns is drawn 60 times a second, by the processor.
        still = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
        context = browser.new_context(**{**still, **options})
        context.add_cookies(session_cookies)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", listen)
        page.goto(portal.url + path)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


def faults(page, widths=(1280, 320), *, preload=True):
    """What axe and a ruler have to say about a page: wide and narrow, and in both themes.

    The page is changed from one to the other, as people do, and is left as the last. In the dark axe looks only at
    what depends on colours.
    """
    found = []
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        for theme, rules, loads in (("light", RULES, preload), ("dark", OF_COLOURS, False)):
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            page.evaluate(SETTLED)
            page.evaluate("scrollTo(0, 0)")  # what lies half under the bar at the top is not too small
            found += [f"{width}, {theme}: {one}" for one in violations(page, rules, preload=loads)]
        if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
            found.append(f"{width}: it is {wide} pixels wide, by {page.evaluate(WIDEST)}")
    return found


def violations(page, rules=RULES, *, preload=True):
    """What axe has to say about a page. Without `preload` it makes no style elements, which the policy would forbid."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(f"{AXE.read_text()};0")  # not as a script element: the page's policy would forbid it
    # Of what is as it should be, which is thousands of elements, it describes none, and the page sends nothing.
    options = {"runOnly": rules, "preload": preload, "resultTypes": ["violations"]}
    found = page.evaluate("options => axe.run(options).then(said => said.violations)", options)
    return [f"{one['id']}: {one['nodes'][0]['target']} {one['nodes'][0]['failureSummary']}" for one in found]


def rows(page, selector=".ln"):
    """(number, stream's mark, text) of each line that the output viewer has."""
    script = "rows => rows.map(row => ['.no', '.rk', '.x'].map(part => row.querySelector(part).textContent))"
    return [tuple(row) for row in page.eval_on_selector_all(selector, script)]
