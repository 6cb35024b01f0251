"""What was done, by whom and from where: one entry an action, in the transaction of the action, never changed again.

Whoever appends to a chain holds its row until the transaction ends. So entries come last in a transaction, all of them
at once (`atomic`): nobody waits for another row while holding a chain, and a thousand entries cost one lock. In which
order other rows are locked is said in `portal/tasks/ledger.py`.

Entries of an organization form a chain: each holds the SHA-256 of itself and of the one before, and the chain's own
row holds the last hash and the length, so that a changed, removed or added entry is found by `verify`.

The portal refuses to change or delete entries. On PostgreSQL the database can refuse it too: give the portal a role of
its own that does not own these tables, run `manage.py migrate` as their owner, and then, as the owner,

    REVOKE UPDATE, DELETE, TRUNCATE ON accounts_auditevent FROM portal;
    REVOKE DELETE, TRUNCATE ON accounts_auditchain FROM portal;

`accounts_auditchain` needs INSERT and UPDATE: each entry moves the end of its chain. Who can write to the database as
the owner can also write a whole new chain; `manage.py verify_audit` prints the last hash of each, to be kept elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.utils.timezone import now

from accounts.models import AuditChain, AuditEvent, Organization, User
from portal.logs import logged_words
from portal.taken import taken
from portal.text import storable


@dataclass(frozen=True)
class Origin:
    """From where something is done. Set for each request by `accounts.middleware`."""

    address: str | None = None
    how: str = ""


_origin: ContextVar[Origin] = ContextVar("audit_origin", default=Origin())  # noqa: B039 (frozen)


@contextmanager
def done_from(address: str | None, how: str = "") -> Iterator[None]:
    token = _origin.set(Origin(plain_address(address), how))
    try:
        yield
    finally:
        _origin.reset(token)


def plain_address(text: str | None) -> str | None:
    """The address as every database gives it back. None for what is none, e.g. a proxy's "unknown"."""
    try:
        address = ip_address((text or "").split("%")[0])
    except ValueError:
        return None
    return str((isinstance(address, IPv6Address) and address.ipv4_mapped) or address)


def address_of(request: HttpRequest) -> str | None:
    """The client's address. Only as many X-Forwarded-For entries are believed as there are trusted proxies."""
    said = request.META.get("REMOTE_ADDR", "")
    forwarded = [part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if part.strip()]
    if settings.TRUSTED_PROXIES and len(forwarded) >= settings.TRUSTED_PROXIES:
        said = forwarded[-settings.TRUSTED_PROXIES]
    return plain_address(said)


_gathered: ContextVar[list[tuple[Organization | None, AuditEvent]] | None] = ContextVar("audit_gathered", default=None)


@contextmanager
def atomic() -> Iterator[None]:
    """One transaction, and what is recorded inside it appended as the last thing that it does, under one lock.

    For every action: `@audit.atomic()`. Inside another one, a savepoint, whose entries are gone with it when it fails.
    Raises `Taken` where somebody else gave its name to another row at the same moment.
    """
    outer = _gathered.get()
    entries = outer if outer is not None else []
    before = len(entries)
    try:
        with transaction.atomic():
            token = _gathered.set(entries)
            try:
                yield
            finally:
                _gathered.reset(token)  # before the commit: what is done after it has entries of its own
            if outer is None:
                _append(entries)
    except BaseException as error:
        del entries[before:]
        if isinstance(error, IntegrityError) and (words := taken(error)):
            raise words from error
        raise


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
    """One entry, appended at the end of the `atomic` that this is called in; outside of one, at once.

    `subject` is any model with a `uuid`; its class's verbose name is its kind. `verb` is in the past: "created".
    Secrets have no place in `before` and `after`.
    """
    origin = _origin.get()
    event = AuditEvent(
        at=now(),
        actor=by.uuid if by else None,
        actor_name=by.email if by else "",
        how=storable(origin.how)[:120],
        verb=verb,
        kind=str(subject._meta.verbose_name),
        subject=getattr(subject, "uuid", None),
        subject_name=storable(str(subject))[:254],
        workspace=workspace.uuid if workspace is not None else None,
        before=_plain(before or {}),
        after=_plain(after or {}),
        address=origin.address,
        request_id=logged_words().get("request", ""),
    )
    gathered = _gathered.get()
    if gathered is not None:
        gathered.append((organization, event))
    else:
        with transaction.atomic():
            _append([(organization, event)])
    return event


def _append(entries: list[tuple[Organization | None, AuditEvent]]) -> None:
    """To their chains. Whoever comes second to a chain waits until the first one's transaction has ended.

    Several chains are taken in one order by everybody: the installation's own, then those of organizations by uuid.
    """
    chains: dict[UUID | None, list[AuditEvent]] = {}
    for organization, event in entries:
        chains.setdefault(organization.uuid if organization else None, []).append(event)
    for uuid in sorted(chains, key=lambda uuid: str(uuid or "")):
        locked = AuditChain.objects.select_for_update(no_key=True)
        chain, _ = locked.get_or_create(organization=uuid)
        for event in chains[uuid]:
            event.chain, event.number, event.previous = chain, chain.length + 1, chain.head
            event.hash = chain.head = hash_of(event)
            chain.length = event.number
        AuditEvent.objects.append(chains[uuid])
        chain.save(update_fields=["length", "head"])


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
    with atomic():
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


def _plain(value: Any) -> Any:
    """What is the same after it has been in any database: text, whole numbers, yes and no, and collections of them."""
    match value:
        case None | bool() | int():
            return value
        case dict():
            return {_plain(str(key)): _plain(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in (value if isinstance(value, list | tuple) else sorted(value))]
        case datetime():
            return value.astimezone(UTC).isoformat()
    return storable(str(value))


@dataclass(frozen=True)
class Finding:
    """The first thing that is wrong with a chain."""

    number: int
    what: str


def verify(chain: AuditChain) -> Finding | None:
    """Computes the whole chain anew. Entries that are appended meanwhile are followed to the end."""
    number, head = 0, ""
    rest = chain.events.order_by("number")
    while True:
        before = number
        for event in rest.iterator(chunk_size=1000):
            event.chain = chain
            if event.number != number + 1:
                return (
                    Finding(number + 1, "was removed") if event.number > number else Finding(event.number, "was added")
                )
            if event.hash != hash_of(event):
                return Finding(event.number, "was changed")
            if event.previous != head:
                return Finding(event.number, "does not follow the entry before it")
            number, head = event.number, event.hash
        chain.refresh_from_db()
        if number == chain.length:
            return None if head == chain.head else Finding(number, "is not the one that was last appended")
        if number > chain.length:
            return Finding(chain.length + 1, "was added")
        if number == before:
            return Finding(number + 1, "was removed")
        rest = chain.events.filter(number__gt=number).order_by("number")


def changes(event: AuditEvent) -> list[tuple[str, str | None, str | None]]:
    """What changed, in words: of what, before, after. None where there was or is nothing to say."""
    sides = (event.before, event.after)
    return [
        (name.replace("_", " "), *(_in_words(side[name]) if name in side else None for side in sides))
        for name in sorted({*event.before, *event.after})  # databases keep no order
    ]


def _in_words(value: Any) -> str:
    match value:
        case True | False:
            return "yes" if value else "no"
        case None | "" | [] | {}:
            return "nothing"
        case list():
            return ", ".join(_in_words(one) for one in value)
        case dict():
            return ", ".join(f"{name} {_in_words(one)}" for name, one in value.items())
    return str(value)
