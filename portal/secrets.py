"""Secrets at rest, and secrets kept out of what people read.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce. What a ciphertext belongs to (organization, row, field) is
its associated data, so that a ciphertext moved to another row does not open.

A model declares what it keeps so as `EncryptedField`, and says in `belongs_to(field)` to what a row's belongs; `seal`
and `unseal` write and read it, and `rotate` finds all of them. `ENCRYPTED_IN_JSON` names what libraries keep in theirs.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.apps import apps
from django.conf import settings
from django.db import models, transaction


class CannotDecrypt(Exception):
    """Another key, another row, or damage. Nothing more is said."""


def _ring() -> dict[str, AESGCM]:
    """Key id → cipher, newest first. The id is a fingerprint and says nothing about the key."""
    keys = [sha256(b"coxswain at rest" + text.encode()).digest() for text in settings.ENCRYPTION_KEYS]
    return {sha256(key).hexdigest()[:8]: AESGCM(key) for key in keys}


def encrypt(plain: str, *, belongs_to: str) -> str:
    """`belongs_to` names the organization, the row and the field; `decrypt` needs the same."""
    key_id, cipher = next(iter(_ring().items()))
    nonce = os.urandom(12)
    sealed = cipher.encrypt(nonce, plain.encode(), belongs_to.encode())
    return f"v1:{key_id}:{base64.b64encode(nonce + sealed).decode()}"


def decrypt(text: str, *, belongs_to: str) -> str:
    """Raises `CannotDecrypt`."""
    try:
        version, key_id, body = text.split(":")
        raw = base64.b64decode(body, validate=True)
        if version != "v1" or base64.b64encode(raw).decode() != body:  # one way to write it, and no other
            raise ValueError(version)
        return _ring()[key_id].decrypt(raw[:12], raw[12:], belongs_to.encode()).decode()
    except (ValueError, KeyError, InvalidTag) as error:
        raise CannotDecrypt from error


def rotated(text: str, *, belongs_to: str) -> str:
    """The same secret under the newest key. Raises `CannotDecrypt`."""
    newest = next(iter(_ring()))
    if text.startswith(f"v1:{newest}:"):
        return text
    return encrypt(decrypt(text, belongs_to=belongs_to), belongs_to=belongs_to)


class EncryptedField(models.TextField):  # type: ignore[type-arg]
    """Holds a ciphertext, or nothing. To the database it is text."""

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs


def seal(row: Any, name: str, plain: str) -> None:
    """Put a secret into an `EncryptedField` of a row, which the caller then saves."""
    assert isinstance(row._meta.get_field(name), EncryptedField), f"{row._meta.label}.{name} must be an EncryptedField"
    setattr(row, name, encrypt(plain, belongs_to=row.belongs_to(name)))


def unseal(row: Any, name: str) -> str:
    """Raises `CannotDecrypt`."""
    return decrypt(getattr(row, name), belongs_to=row.belongs_to(name))


@dataclass
class Rotation:
    """What became of one field's secrets."""

    name: str
    renewed: int = 0
    already: int = 0  # under the newest key
    closed: list[int] = field(default_factory=list)  # primary keys of rows that none of the keys opens


def rotate(batch: int = 200) -> Iterator[Rotation]:
    """Encrypt every secret anew with the newest key, a few rows a transaction. May be stopped, and called again."""
    for model in apps.get_models():
        for column in model._meta.local_concrete_fields:
            name = f"{model._meta.label}.{column.name}"
            if isinstance(column, EncryptedField):
                yield _rotate(model, column.name, Rotation(name), batch)
            elif name in settings.ENCRYPTED_IN_JSON:
                yield _rotate(model, column.name, Rotation(name), batch, settings.ENCRYPTED_IN_JSON[name])


def _rotate(model: Any, name: str, rotation: Rotation, batch: int, belongs_to: str | None = None) -> Rotation:
    last = 0
    while True:
        with transaction.atomic():
            rows = list(model._base_manager.select_for_update().filter(pk__gt=last).order_by("pk")[:batch])
            for row in rows:
                old = getattr(row, name)
                try:
                    new = _renewed(old, belongs_to or row.belongs_to(name))
                except CannotDecrypt:
                    rotation.closed.append(row.pk)
                    continue
                if new != old:
                    model._base_manager.filter(pk=row.pk).update(**{name: new})
                    rotation.renewed += 1
                elif old:
                    rotation.already += 1
        if not rows:
            return rotation
        last = rows[-1].pk


def _renewed(value: Any, belongs_to: str) -> Any:
    """A ciphertext, or what has some inside, anew."""
    match value:
        case str() if value.startswith("v1:"):
            return rotated(value, belongs_to=belongs_to)
        case dict():
            return {name: _renewed(one, belongs_to) for name, one in value.items()}
        case list():
            return [_renewed(one, belongs_to) for one in value]
    return value


_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s]+(?=@)")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without credentials in URLs and without these secrets."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "•••")
    return _URL_CREDENTIALS.sub("•••", text)
