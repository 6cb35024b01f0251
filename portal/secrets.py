"""Secrets at rest, and secrets kept out of what people read.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce. What a ciphertext belongs to (organization, row, field) is
its associated data, so that a ciphertext moved to another row does not open.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings


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


_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s]+(?=@)")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without credentials in URLs and without these secrets."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "•••")
    return _URL_CREDENTIALS.sub("•••", text)
