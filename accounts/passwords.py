"""Hashing passwords, few at a time: it is made to cost a fraction of a second of a core, and pages want cores too."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.password_validation import (
    CommonPasswordValidator,
    MinimumLengthValidator,
    UserAttributeSimilarityValidator,
)
from django.http import HttpResponse
from django.template.loader import render_to_string

AT_ONCE = max(1, (os.cpu_count() or 2) // 2)  # in each process: the other cores are for pages
MOST_WAITING = 20  # each of them holds a thread, and on PostgreSQL a connection
PATIENCE = 10.0  # seconds

_places = threading.BoundedSemaphore(AT_ONCE)
_queue = threading.BoundedSemaphore(AT_ONCE + MOST_WAITING)


class Busy(Exception):
    """Too many passwords are being hashed at this moment. Nothing was compared or changed."""


@contextmanager
def _turn() -> Iterator[None]:
    if not _queue.acquire(blocking=False):
        raise Busy
    try:
        if not _places.acquire(timeout=PATIENCE):
            raise Busy
        try:
            yield
        finally:
            _places.release()
    finally:
        _queue.release()


class PasswordHasher(PBKDF2PasswordHasher):
    """Django's, in turns. Raises `Busy`."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        with _turn():
            return super().encode(password, salt, iterations)


def busy(exception: Exception) -> HttpResponse | None:
    """What somebody sees whose turn did not come."""
    if not isinstance(exception, Busy):
        return None
    return HttpResponse(render_to_string("account/busy.html"), status=503, headers={"Retry-After": "10"})


class LongEnough(MinimumLengthValidator):
    def get_error_message(self) -> str:
        return f"Too short: at least {self.min_length} characters. A few unrelated words are good."


class Uncommon(CommonPasswordValidator):
    def get_error_message(self) -> str:
        return "Too common: it is on the lists that are tried first."


class Unlike(UserAttributeSimilarityValidator):
    def get_error_message(self) -> str:
        return "Too similar to your name or address."
