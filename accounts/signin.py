"""How somebody signed in: what is asked for again, and what is written down of it and of the means of it."""

from __future__ import annotations

import time
from typing import Any

from allauth.account import app_settings
from allauth.account import signals as account_signals
from allauth.account.internal.flows.login import get_authentication_records, record_authentication
from allauth.account.internal.flows.reauthentication import raise_if_reauthentication_required
from allauth.account.models import EmailAddress
from allauth.mfa import signals as mfa_signals
from allauth.socialaccount.signals import social_account_added, social_account_removed
from django.contrib.auth import login
from django.http import HttpRequest

from accounts import audit
from accounts.models import User

_METHODS = {"password": "password", "socialaccount": "single sign-on"}
_FACTORS = {"totp": "authenticator app", "recovery_codes": "recovery code", "webauthn": "passkey"}


def has_just_shown(request: HttpRequest) -> bool:
    """Whether the person of this session has shown within minutes who they are."""
    shown = [record["at"] for record in get_authentication_records(request, request.user)]
    return bool(shown) and time.time() - shown[-1] < app_settings.REAUTHENTICATION_TIMEOUT


def confirm(request: HttpRequest) -> None:
    """Before what a stolen session must not be enough for. Raises `ReauthenticationRequired`.

    allauth then asks who it is, and sends the form that was posted again.
    """
    raise_if_reauthentication_required(request, app="allauth.account")


def sign_in_new(request: HttpRequest, user: User) -> None:
    """Who has just made an account with a password."""
    login(request, user, backend="accounts.backends.PersonBackend")
    record_authentication(request, user, method="password", email=user.email)


def how_of(request: HttpRequest) -> str:
    """By what means the person of this session signed in: "password, authenticator app"."""
    if not hasattr(request, "session"):
        return ""
    means: list[str] = []
    for record in request.session.get("account_authentication_methods", []):
        if not record.get("reauthenticated"):
            method = record["method"]
            means.append(_FACTORS.get(record.get("type"), method) if method == "mfa" else _METHODS.get(method, method))
    return ", ".join(dict.fromkeys(means))


def write_down(request: HttpRequest, verb: str, user: User, **after: Any) -> None:
    with audit.done_from(audit.address_of(request), how_of(request)):
        audit.record_of_person(verb, user, by=user, after=after)


def write_down_failure(request: HttpRequest, typed: str) -> None:
    """A wrong password. Of an address that is not known, no more is kept than what was typed, and not all of that."""
    user = User.objects.filter(email__iexact=typed).first()
    with audit.done_from(audit.address_of(request)):
        if user is not None:
            audit.record_of_person("failed to sign in", user, by=None)
        else:
            nobody = User(email=typed[:100])
            nobody.uuid = None  # type: ignore[assignment]
            audit.record("failed to sign in", nobody, organization=None, by=None)


def connect() -> None:
    """allauth says these things by signals alone."""
    for signal, verb in (
        (account_signals.user_signed_up, "created"),
        (account_signals.password_changed, "changed password"),
        (account_signals.password_set, "changed password"),
        (account_signals.password_reset, "reset password"),
        (mfa_signals.authenticator_added, "added second factor"),
        (mfa_signals.authenticator_removed, "removed second factor"),
        (mfa_signals.authenticator_reset, "renewed second factor"),
    ):
        signal.connect(_writer(verb), weak=False, dispatch_uid=f"audit {verb} {id(signal)}")
    for signal, verb in (
        (social_account_added, "connected single sign-on"),
        (social_account_removed, "disconnected single sign-on"),
    ):
        signal.connect(_writer_of_single_sign_on(verb), weak=False, dispatch_uid=f"audit {verb}")
    account_signals.email_changed.connect(_email_changed, dispatch_uid="audit e-mail")


def _writer(verb: str) -> Any:
    def write(request: HttpRequest, user: User, authenticator: Any = None, **_: Any) -> None:
        after = {"means": _FACTORS.get(authenticator.type, authenticator.type)} if authenticator else {}
        write_down(request, verb, user, **after)

    return write


def _writer_of_single_sign_on(verb: str) -> Any:
    def write(request: HttpRequest, sociallogin: Any = None, socialaccount: Any = None, **_: Any) -> None:
        account = socialaccount or sociallogin.account
        write_down(request, verb, account.user, provider=account.get_provider().name)

    return write


def _email_changed(
    request: HttpRequest, user: User, from_email_address: EmailAddress | None, to_email_address: EmailAddress, **_: Any
) -> None:
    write_down(request, "changed address", user, address=to_email_address.email)
