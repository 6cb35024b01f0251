"""What was done, by whom and from where: one entry an action, in the transaction of the action, never changed again.

Entries of an organization form a chain: each holds the SHA-256 of itself and of the one before, and the chain's own
row holds the last hash and the length, so that a changed, removed or added entry is found by `verify`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.utils.timezone import now

from accounts.models import AuditChain, AuditEvent, Organization, User
from portal.logs import logged_words


@dataclass(frozen=True)
class Origin:
    """From where something is done. Set for each request by `accounts.middleware`."""

    address: str | None = None
    how: str = ""


_origin: ContextVar[Origin] = ContextVar("audit_origin", default=Origin())  # noqa: B039 (frozen)


@contextmanager
def done_from(address: str | None, how: str = "") -> Iterator[None]:
    # One way to write an address, lest the hash is of another one than the database gives back.
    token = _origin.set(Origin(str(ip_address(address)) if address else None, how))
    try:
        yield
    finally:
        _origin.reset(token)


def address_of(request: HttpRequest) -> str | None:
    """The client's address. Only as many X-Forwarded-For entries are believed as there are trusted proxies."""
    said = request.META.get("REMOTE_ADDR", "")
    forwarded = [part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if part.strip()]
    if settings.TRUSTED_PROXIES and len(forwarded) >= settings.TRUSTED_PROXIES:
        said = forwarded[-settings.TRUSTED_PROXIES]
    try:
        return str(ip_address(said))
    except ValueError:  # a unix socket, or a proxy that does not know
        return None


def record(
    verb: str,
    subject: Any,
    *,
    organization: Organization | None,
    by: User | None,
    workspace: Any = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEvent:
    """Append one entry. Call it inside the transaction of what is done; secrets have no place in `before` and `after`.

    `subject` is any model with a `uuid`; its class's verbose name is its kind. `verb` is in the past: "created".
    """
    with transaction.atomic():
        AuditChain.objects.get_or_create(organization=organization.uuid if organization else None)
        chain = AuditChain.objects.select_for_update().get(organization=organization.uuid if organization else None)
        origin = _origin.get()
        event = AuditEvent(
            chain=chain,
            number=chain.length + 1,
            at=now(),
            actor=by.uuid if by else None,
            actor_name=by.email if by else "",
            how=origin.how[:120],
            verb=verb,
            kind=str(subject._meta.verbose_name),
            subject=getattr(subject, "uuid", None),
            subject_name=str(subject)[:254],
            workspace=workspace.uuid if workspace is not None else None,
            before=before or {},
            after=after or {},
            address=origin.address,
            request_id=logged_words().get("request", ""),
            previous=chain.head,
        )
        event.hash = chain.head = hash_of(event)
        event.save(force_insert=True)
        chain.length = event.number
        chain.save()
    return event


@transaction.atomic
def record_of_person(
    verb: str,
    user: User,
    *,
    by: User | None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """What concerns a person alone: an entry in each of their organizations; without any, in the installation's own."""
    organizations: list[Organization | None] = [
        membership.organization for membership in user.memberships.select_related("organization")
    ]
    for organization in organizations or [None]:
        record(verb, user, organization=organization, by=by, before=before, after=after)


def hash_of(event: AuditEvent) -> str:
    """Over everything that the entry says, and the hash before it."""
    said = {
        field.attname: _plain(getattr(event, field.attname))
        for field in AuditEvent._meta.concrete_fields
        if field.attname not in ("id", "hash", "chain_id")
    }
    said["organization"] = _plain(event.chain.organization)
    return sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Damage:
    """Where a chain is not what was written: the first bad entry, and what is wrong with it."""

    chain: AuditChain
    number: int
    what: str


def verify() -> Iterator[Damage]:
    """Read all chains anew, and tell the first damage of each. An entry that is gone from the end is found too."""
    for chain in AuditChain.objects.order_by("pk"):
        if damage := _damage(chain):
            yield damage


def _damage(chain: AuditChain) -> Damage | None:
    number, head = 0, ""
    for event in AuditEvent.objects.filter(chain=chain).order_by("number").iterator(2000):
        event.chain = chain
        if event.number != number + 1:
            return Damage(chain, number + 1, "is missing")
        if event.previous != head or hash_of(event) != event.hash:
            return Damage(chain, event.number, "was changed or does not follow from the one before")
        number, head = event.number, event.hash
    if number != chain.length or head != chain.head:
        return Damage(chain, number + 1, "is missing" if number < chain.length else "was added by somebody else")
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return value.isoformat() if hasattr(value, "isoformat") else value
