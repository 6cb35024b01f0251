"""What is wrong with the settings, before a person finds out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 (Django's own name)

from portal.environment import is_loopback
from portal.tasks import causes, registry


@register(Tags.security)
def settings_are_sane(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    site = urlsplit(settings.PORTAL_URL)
    if site.scheme not in {"http", "https"} or not site.hostname:
        found.append(
            Error(
                f"PORTAL_URL is {settings.PORTAL_URL!r}.",
                hint="Give the address as people type it, e.g. https://portal.example.org.",
                id="portal.E001",
            )
        )
    if not is_loopback(site.hostname) and not settings.TRUSTED_PROXIES_SAID:
        hint = "Set how many stand in front of the portal, or 0: behind one, all people have its address otherwise."
        found.append(Warning("PORTAL_TRUSTED_PROXIES is not set.", hint=hint, id="portal.W004"))
    if len(settings.SECRET_KEY) < 32:
        found.append(Error("PORTAL_SECRET_KEY is short.", hint="Use 50 random characters.", id="portal.E002"))
    if any(len(key) < 32 for key in settings.ENCRYPTION_KEYS):
        found.append(
            Error("A key in PORTAL_ENCRYPTION_KEYS is short.", hint="Use 43 random characters.", id="portal.E003")
        )
    if settings.VAR.stat().st_mode & 0o077:
        found.append(
            Error(f"{settings.VAR} can be read by others.", hint="chmod 700 it: it holds secrets.", id="portal.E004")
        )
    for provider in settings.SOCIALACCOUNT_PROVIDERS.values():
        if any(not app["client_id"] or not app["secret"] for app in provider["APPS"]):
            hint = "Set PORTAL_OIDC_CLIENT_ID and PORTAL_OIDC_CLIENT_SECRET, or its _FILE."
            found.append(Error("PORTAL_OIDC_ISSUER is set without a client.", hint=hint, id="portal.E006"))
        for app in provider["APPS"]:
            if not _is_private(issuer := app["settings"]["server_url"]):
                hint = "Give its https:// address: what it says of a person is believed because TLS says who it is."
                found.append(Error(f"PORTAL_OIDC_ISSUER is {issuer!r}.", hint=hint, id="portal.E008"))
    for origin in settings.SIGN_ON_ORIGINS[1:]:
        if not _is_private(origin) or urlsplit(origin).path or any(letter in origin for letter in "?#@;,'"):
            hint = "Give https:// and the host alone, e.g. https://login.example.org."
            found.append(Error(f"PORTAL_OIDC_ORIGINS has {origin!r}.", hint=hint, id="portal.E009"))
    if settings.LOCAL_NODES["rung"] == "plain" and settings.LOCAL_NODES["strangers"]:
        found.append(
            Error(
                "PORTAL_LOCAL_RUNG is plain while everybody may make an organization: any of them could take the "
                "portal over.",
                hint="Set PORTAL_OPEN_ORGANIZATIONS to off, or take PORTAL_LOCAL_RUNG away.",
                id="portal.E010",
            )
        )
    if settings.LOCAL_NODES["network"] not in {"isolated", "host"}:
        hint = "Say isolated or host."
        found.append(
            Error(f"PORTAL_LOCAL_NETWORK is {settings.LOCAL_NODES['network']!r}.", hint=hint, id="portal.E011")
        )
    try:
        causes.table(settings.CAUSES)
    except ValueError as error:
        hint = "PORTAL_CAUSES names a file of causes; docs/operating.md says what is in it."
        found.append(Error(f"{error}.", hint=hint, id="portal.E012"))
    found += [Error(fault, id="portal.E005") for fault in registry.faults(settings.QUEUES)]
    return found


def _is_private(url: str) -> bool:
    """Whether nobody on the way can read or change what is said there."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
        )
    except ValueError:
        return False


@register(Tags.security, deploy=True)
def ready_for_production(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        found.append(
            Warning("The database is SQLite.", hint="Set DATABASE_URL=postgresql://… for a team.", id="portal.W001")
        )
    if urlsplit(settings.PORTAL_URL).scheme != "https":
        found.append(
            Warning(
                f"PORTAL_URL is {settings.PORTAL_URL}: passwords and cookies cross the network as they are.",
                hint="Set PORTAL_URL=https://… and have a proxy end TLS: secure cookies and HSTS come of it.",
                id="portal.W010",
            )
        )
    if settings.EMBEDDED_REDIS:
        found.append(Warning("Redis is the embedded one.", hint="Set REDIS_URL=redis://….", id="portal.W002"))
    if sys.platform != "linux":
        found.append(Warning("Only Linux is supported.", id="portal.W003"))
    if not settings.KEYS_ARE_GIVEN:
        hint = "Set PORTAL_SECRET_KEY and PORTAL_ENCRYPTION_KEYS, the same on every host, and keep a copy elsewhere."
        found.append(
            Warning(
                f"Keys are generated in {settings.VAR}: each host has its own, and none opens the secrets and sessions "
                "of the others.",
                hint=hint,
                id="portal.W005",
            )
        )
    return [*found, *(of_each_host() if settings.HOST_COUNT != 1 else [])]


def of_each_host() -> list[CheckMessage]:
    """What each host has for itself, and what follows from that for several."""
    found: list[CheckMessage] = []
    one = "Set PORTAL_HOSTS to 1 if web, worker and watch run on one host."
    place = Path(cast("dict[str, Any]", settings.STORAGES["outputs"]).get("OPTIONS", {}).get("location", ""))
    if place.is_absolute():
        found.append(
            Warning(
                f"Kept output is written to {place} and {settings.VAR / 'stores'}: what a worker writes is not there"
                " for web on another host.",
                hint=f"Mount one folder at each of these paths on every host. {one}",
                id="portal.W006",
            )
        )
    found.append(
        Warning(
            f"The examples' repositories are made in {settings.VAR} by each web host.",
            hint=f"Have the proxy send /examples/ to one host, or run the same git on each. {one}",
            id="portal.W007",
        )
    )
    found.append(
        Warning(
            "Logs are of each host: a request, its task and its run may be in three of them.",
            hint=f"Collect what web, worker and watch write to standard error in one place. {one}",
            id="portal.W008",
        )
    )
    found.append(
        Warning(
            "Nodes of This computer are on the host whose worker made them, which no other host can reach.",
            hint=f"Run worker and watch on that host alone while there are clusters on This computer. {one}",
            id="portal.W009",
        )
    )
    return found
