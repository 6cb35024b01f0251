"""How people come in, and how they are sent away: by keyboard alone, in both themes."""

from __future__ import annotations

import re

import pytest

from tests.accounts.test_single_sign_on import portal as provided
from tests.browser.conftest import violations
from tests.browser.test_accounts import page_of, tab_to  # noqa: F401  (a fixture)
from tests.provider import PASSWORD as PROVIDER_PASSWORD
from tests.running import until
from tests.web import code_of

portal = provided  # one of its own: here an organization asks for a second factor, and people are locked
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def place(portal):
    workspace = portal.call("make_workspace")
    until(lambda: portal.call("state", kind="workspace", uuid=workspace)["status"] == "ready", what="the workspace")
    return workspace


def clean(page):
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # else colours are caught on their way
        assert violations(page) == [], (page.url, theme)


def fill_by_keyboard(page, **fields):
    """And Enter in the last one."""
    for name, value in fields.items():
        tab_to(page, f"[name={name}]")
        page.keyboard.type(value)
    page.keyboard.press("Enter")


def press(page, selector):
    tab_to(page, selector)
    page.keyboard.press("Enter")


def sign_in(page, email, password=PASSWORD):
    fill_by_keyboard(page, login=email, password=password)


def test_invited_then_a_second_factor_then_in_the_workspace(page_of, portal, place):  # noqa: F811
    link = portal.call("invite", email="ida@example.org", workspace=place)
    portal.call("require_second_factor")
    try:
        page = page_of(portal.url + link)
        clean(page)
        fill_by_keyboard(page, name="Ida", password=PASSWORD)
        page.wait_for_url("**/accounts/security/")
        assert "Harbor Analytics asks for a second factor" in page.text_content("main")
        clean(page)
        press(page, "a[href$='totp/activate/']")
        page.wait_for_selector("#secret")
        clean(page)
        secret = page.text_content("#secret").strip()
        fill_by_keyboard(page, code=code_of(secret))
        page.wait_for_selector("#recovery-codes")
        assert len(page.query_selector_all("#recovery-codes li")) == 10
        clean(page)
        press(page, "main a.btn-primary")
        page.wait_for_url(f"**/workspaces/{place}/dashboard/")
        clean(page)
    finally:
        portal.call("require_second_factor", required=False)


def test_locked_told_so_unlocked_and_in(page_of, portal, place):  # noqa: F811
    page = page_of("/accounts/login/")
    clean(page)
    sign_in(page, "lola@example.org")
    page.wait_for_selector('h1:has-text("Couldn\'t sign you in")')
    said = "User is locked out. To unlock user, please contact your administrators"
    assert said in re.sub(r"\s+", " ", page.text_content("main"))
    assert page.get_attribute("main a[href^='mailto:']", "href") == "mailto:help@example.org"
    clean(page)

    desk = page_of("/accounts/login/")
    sign_in(desk, "alice@example.org")
    desk.wait_for_url(f"{portal.url}/")
    desk.goto(f"{portal.url}/people/?state=locked")
    clean(desk)
    press(desk, "a.btn[href$='#unlock']")
    desk.wait_for_selector("#unlock")
    clean(desk)
    fill_by_keyboard(desk, reason="back from leave")
    desk.wait_for_selector("text=is unlocked and can sign in again")

    press(page, "main a[href*='/accounts/login/']")
    page.wait_for_selector("[name=login]")
    sign_in(page, "lola@example.org")
    page.wait_for_url(f"{portal.url}/")


def test_a_role_taken_away_stops_the_page_that_is_open(page_of, portal, place):  # noqa: F811
    portal.call("make_people", names=["walter"])
    portal.call("give_role", workspace=place, email="walter@example.org", role="viewer")
    opened = portal.call("open_task", workspace=place, title="Watch the tide")
    page = page_of(f"/accounts/login/?next=/tasks/{opened['task']}/")
    sign_in(page, "walter@example.org")
    page.wait_for_url("**/tasks/**")
    portal.call("say", output=opened["output"], data="high water\n")
    page.wait_for_selector("text=high water")
    # A page that has just been opened is not loaded again.
    until(lambda: page.evaluate("performance.now()") > 4000, what="its age")

    portal.call("give_role", workspace=place, email="walter@example.org", role="")
    page.wait_for_selector("h1:has-text('There is nothing at this address')")
    assert "a workspace you are not a member of" in page.text_content("main")
    assert "high water" not in page.text_content("body")
    clean(page)
    assert page.reload().status == 404
    portal.call("end_task", task=opened["task"])


def test_by_the_identity_provider_whose_page_is_on_another_origin(page_of, portal):  # noqa: F811
    """The policy for forms would stop the way there without a word."""
    page = page_of("/accounts/login/")
    clean(page)
    press(page, "form[action^='/accounts/oidc/'] button")
    page.wait_for_url(re.compile("^http://localhost:"))
    page.fill("[name=username]", "bob@example.org")
    page.fill("[name=password]", PROVIDER_PASSWORD)
    page.click("button")
    page.wait_for_url(f"{portal.url}/")
    assert "Bob" in page.text_content("header")
