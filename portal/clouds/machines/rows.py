"""Connections to the database, for a cloud that is asked from any thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import connection

P = ParamSpec("P")
T = TypeVar("T")


def briefly(function: Callable[P, T]) -> Callable[P, T]:
    """Reads or writes rows. A connection that was opened for it is closed: no thread keeps one while it waits for SSH,
    or takes one with it when it ends."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        was_open = connection.connection is not None
        try:
            return function(*args, **kwargs)
        finally:
            if not was_open:
                connection.close()

    return call
