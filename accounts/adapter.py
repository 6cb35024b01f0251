"""Where allauth asks us."""

from __future__ import annotations

import logging
from smtplib import SMTPException
from typing import Any
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.providers.base import AuthProcess
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from accounts import signin
from accounts.actions import INVITED_BY, open_invitation
from accounts.addresses import check_address
from accounts.audit import address_of
from accounts.middleware import locked_page
from accounts.models import User
from accounts.passwords import Busy
from accounts.single_sign_on import ProviderSession
from accounts.theme import remember_theme
from portal.secrets import decrypt, encrypt, redact

logger = logging.getLogger(__name__)


LINKS = ("activate_url", "password_reset_url", "signup_url")  # of allauth's mails


def _at_portal(url: str) -> str:
    return f"{settings.PORTAL_URL}{urlsplit(url).path}"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "account_inactive": "This account has been switched off.",
        "email_password_mismatch": "The e-mail address or the password is not right.",
        "incorrect_code": "This code is not right, or too old. Take the newest.",
        "incorrect_password": "This is not your password.",
        "enter_current_password": "This is not your password.",
        "duplicate_email": "This is an address of your account already.",
        "email_taken": "There is an account with this address.",
        "invalid_password_reset": "This link is not good any more. Ask for another one.",
        "unverified_primary_email": "Confirm your address first: follow the link in the mail to it.",
        "too_many_login_attempts": "Too many tries. Wait a few minutes.",
        "same_as_current": "This is the same as before.",
        "rate_limited": "Too many requests. Wait a minute.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Without an invitation, only where the portal is open to everybody."""
        return bool(settings.OPEN_SIGNUP)

    def clean_email(self, email: str) -> str:
        """Of a new account, and of one that changes its address."""
        check_address(email)
        return str(super().clean_email(email))

    def pre_login(self, request: HttpRequest, user: User, **options: Any) -> HttpResponse | None:
        """After the password, the passkey or the provider's word, and before a second factor is asked for."""
        return super().pre_login(request, user, **options) or self._refusal(request, user)

    def login(self, request: HttpRequest, user: User) -> None:
        """After the second factor: the account may have been locked while it was asked for."""
        if refusal := self._refusal(request, user):
            raise ImmediateHttpResponse(refusal)
        super().login(request, user)

    def _refusal(self, request: HttpRequest, user: User) -> HttpResponse | None:
        if not user.is_locked:
            return None
        signin.write_down(request, "was refused as locked", user)
        request.session.flush()  # what it says of the steps that were taken
        return locked_page(request, user)

    def post_login(self, request: HttpRequest, user: User, **options: Any) -> HttpResponse:
        signin.write_down(request, "signed in", user)
        if user.warned_days:
            User.objects.filter(pk=user.pk).update(warned_days=0)
        return remember_theme(super().post_login(request, user, **options), user)

    def logout(self, request: HttpRequest) -> None:
        if request.user.is_authenticated:
            signin.write_down(request, "signed out", request.user)
        super().logout(request)

    def authenticate(self, request: HttpRequest, **credentials: Any) -> Any:
        try:
            return super().authenticate(request, **credentials)
        except Busy:
            self._rollback_login_failed_rl_usage()  # the password was not even looked at
            raise

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        signin.write_down_failure(request, credentials.get("email", ""))

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """All mails of allauth come by here. Their links lead to PORTAL_URL, whatever address the request had."""
        at = {name: _at_portal(context[name]) for name in LINKS if name in context}
        site = {"name": settings.PORTAL_NAME, "domain": urlsplit(settings.PORTAL_URL).netloc}
        super().send_mail(template_prefix, email, {**context, **at, "current_site": site})

    def send_notification_mail(self, *args: Any, **options: Any) -> None:
        """Of something that is done already: a mail server that is down does not undo it."""
        try:
            super().send_notification_mail(*args, **options)
        except (SMTPException, OSError) as error:
            logger.warning("a person could not be told of a change of their account: %s", error)

    def is_reauthentication_required(self, *, app: str, **options: Any) -> bool:
        """Not of somebody who has signed in within the time for which allauth believes an answer to the question."""
        return super().is_reauthentication_required(app=app, **options) and not signin.has_just_shown(context.request)

    def get_client_ip(self, request: HttpRequest) -> str:
        return address_of(request) or "0.0.0.0"  # noqa: S104 (a unix socket's other end has none)

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """By account and address: who tries a stranger's password must not keep the stranger out."""
        return f"{super()._get_login_attempts_cache_key(request, **credentials)}:{self.get_client_ip(request)}"

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("mfa_index")


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Besides those who may sign up with a password: who has opened an invitation to an address of theirs."""
        invitation = open_invitation(request.session.get(INVITED_BY, ""))
        theirs = {address.email.lower() for address in sociallogin.email_addresses if address.verified}
        return AccountAdapter(request).is_open_for_signup(request) or (
            invitation is not None and invitation.email in theirs
        )

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Called when the account has been looked for. Whether there is one with an address is not told to everybody
        who can type that address at the provider."""
        known = sociallogin.is_existing or any(address.verified for address in sociallogin.email_addresses)
        connects = sociallogin.state.get("process") == AuthProcess.CONNECT
        if not known and not connects and not AccountAdapter(request).is_open_for_signup(request):
            address = next((one.email for one in sociallogin.email_addresses), "")
            provider = sociallogin.account.get_provider()
            context = {"provider": provider.name, "address": address}
            raise ImmediateHttpResponse(render(request, "socialaccount/unverified.html", context, status=403))

    def get_requests_session(self) -> ProviderSession:
        return ProviderSession()

    def populate_user(self, request: HttpRequest, sociallogin: Any, data: dict[str, Any]) -> User:
        """Called before the account is looked for by address: what is no clear yes has not been verified."""
        for address in sociallogin.email_addresses:
            address.verified = address.verified is True or address.verified == "true"  # some say it in words: "false"
        user: User = super().populate_user(request, sociallogin, data)
        user.name = (data.get("name") or "")[: User._meta.get_field("name").max_length]
        return user

    def on_authentication_error(
        self, request: HttpRequest, provider: Any, error: Any = None, exception: Any = None, **_: Any
    ) -> None:
        """The page says that it did not work; what was wrong is for those who look after the portal."""
        cause = f"{type(exception).__name__}: {redact(str(exception))[:300]}" if exception else error
        logger.warning("single sign-on by %s did not work: %s", provider, cause)

    def can_authenticate_by_email(self, login: Any, email: str) -> bool:
        """Asked only of addresses that the provider says are the person's. We must know it too."""
        return bool(EmailAddress.objects.filter(email__iexact=email, verified=True).exists())


class MFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """allauth does not tell whose secret it is: these are bound to their purpose, and not to a row as our own are."""

    error_messages = {
        **DefaultMFAAdapter.error_messages,
        "incorrect_code": "This code is not right, or too old. Take the newest.",
    }

    def encrypt(self, text: str) -> str:
        return encrypt(text, belongs_to="mfa")

    def decrypt(self, encrypted_text: str) -> str:
        return decrypt(encrypted_text, belongs_to="mfa")

    def get_totp_issuer(self) -> str:
        return settings.PORTAL_NAME

    def _get_site_name(self) -> str:
        return settings.PORTAL_NAME

    def can_delete_authenticator(self, authenticator: Authenticator) -> bool:
        """The last second factor stays where an organization asks for one."""
        others = Authenticator.objects.filter(user=authenticator.user).exclude(pk=authenticator.pk)
        if others.exclude(type=Authenticator.Type.RECOVERY_CODES).exists():
            return True
        return not authenticator.user.memberships.filter(organization__second_factor_required=True).exists()
