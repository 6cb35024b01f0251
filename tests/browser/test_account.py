"""The pages of one's account, and a passkey of a (virtual) key, from adding it to signing in by it."""

from __future__ import annotations

from tests.browser.conftest import faults

PAGES = ("/profile/", "/profile/delete/", "/accounts/security/", "/accounts/sessions/", "/accounts/email/")
ASKING = ("/accounts/security/totp/activate/", "/accounts/security/webauthn/add/")


def test_axe_finds_nothing_on_the_pages_of_an_account(portal, open_desk):
    page = open_desk()
    found = {}
    for path in PAGES + ASKING:
        page.goto(portal.url + path)
        if "reauthenticate" in page.url:
            assert faults(page) == []
            page.fill("[name=password]", portal.who["password"])
            page.click("main button[type=submit]")
        if said := faults(page):
            found[path] = said
    assert found == {}


def test_a_passkey_is_added_and_signs_in_alone(portal, open_desk):
    page = open_desk()
    page.context.clear_cookies()
    site = portal.url.replace("127.0.0.1", "localhost")  # a passkey belongs to a name, not to an address
    key = page.context.new_cdp_session(page)
    key.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": True, "automaticPresenceSimulation": True,
    }  # fmt: skip
    key.send("WebAuthn.addVirtualAuthenticator", {"options": options})

    page.goto(f"{site}/accounts/login/")
    page.fill("[name=login]", portal.who["email"])
    page.fill("[name=password]", portal.who["password"])
    page.click("main button[type=submit]")
    page.wait_for_url(f"{site}/")
    page.goto(f"{site}/accounts/security/webauthn/add/")  # nothing is asked of somebody who has just signed in
    page.get_by_label("Passwordless").check()
    page.click("#add-key")
    page.get_by_role("heading", name="Recovery codes").wait_for()

    page.context.clear_cookies()
    page.goto(f"{site}/accounts/login/")
    page.click("#use-passkey")
    page.wait_for_url(f"{site}/")
    page.goto(f"{site}/accounts/security/")
    assert "last used" in page.get_by_role("region", name="Passkeys and security keys").inner_text()

    # As it was, for the tests that sign in with a password alone.
    page.goto(f"{site}/accounts/security/webauthn/")
    page.get_by_role("link", name="Remove").click()
    if "reauthenticate" in page.url:
        page.goto(page.url.replace("security/webauthn/reauthenticate", "reauthenticate"))
        page.fill("[name=password]", portal.who["password"])
        page.click("main button[type=submit]")
    page.click("main button[type=submit]")
    page.wait_for_url(f"{site}/accounts/security/**")
