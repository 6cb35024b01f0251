"""A person's theme, in a cookie that the page's script reads and writes before the first paint."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpResponse

from accounts.models import User


def remember_theme(response: HttpResponse, user: User) -> HttpResponse:
    response.set_cookie("theme", user.theme, max_age=31_536_000, samesite="Lax", secure=settings.SESSION_COOKIE_SECURE)
    return response
