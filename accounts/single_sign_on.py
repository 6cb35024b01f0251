"""The talk with the identity provider, where it answers with something other than OpenID Connect says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import requests
from allauth.socialaccount import app_settings
from allauth.socialaccount.helpers import render_authentication_error
from django.http import HttpRequest, HttpResponse

_DISCOVERY = "/.well-known/openid-configuration"
_ENDPOINTS = ("issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri")
_WORDS = ("sub", "email", "name", "given_name", "family_name", "preferred_username")


class Unusable(requests.RequestException):
    """The provider answered, with something that nobody can be signed in by."""


class ProviderSession(requests.Session):
    """Raises `Unusable` for what allauth would stumble over: it takes every answer for the object it expects."""

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", app_settings.REQUESTS_TIMEOUT)
        response = super().request(method, url, *args, **options)
        if response.ok:
            said = response.json()  # not JSON is a RequestException too
            if not isinstance(said, dict):
                raise Unusable(f"{url} answered {type(said).__name__}, not an object")
            if str(url).endswith(_DISCOVERY):
                _require(url, said, _ENDPOINTS)
            elif method == "GET":  # of the person
                _require(url, said, ["sub", *(word for word in _WORDS if said.get(word) is not None)])
        return response


def _require(url: Any, said: dict[str, Any], names: Iterable[str]) -> None:
    if wrong := [name for name in names if not isinstance(said.get(name), str) or not said[name]]:
        raise Unusable(f"{url} does not say in words: {', '.join(wrong)}")


def provider_failed(request: HttpRequest, exception: Exception) -> HttpResponse | None:
    """What somebody sees whose identity provider does not say where its pages are. allauth sees to the rest."""
    match = request.resolver_match
    ways = ("openid_connect_login", "openid_connect_callback")
    if match is None or match.view_name not in ways or not isinstance(exception, requests.RequestException):
        return None
    response: HttpResponse = render_authentication_error(request, match.kwargs["provider_id"], exception=exception)
    return response
