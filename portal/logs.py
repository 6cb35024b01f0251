"""Logs for operators: one JSON object a line, each with the request or the task it belongs to."""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponse

_context: ContextVar[dict[str, str]] = ContextVar("log_context", default={})  # noqa: B039 (never changed in place)


def logged_words() -> dict[str, str]:
    """The words that what is logged now carries, e.g. `request`."""
    return dict(_context.get())


@contextmanager
def log_context(**words: str) -> Iterator[None]:
    """Everything logged inside carries these words, e.g. `task="…"`."""
    token = _context.set({**_context.get(), **words})
    try:
        yield
    finally:
        _context.reset(token)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SECRET_ADDRESS = re.compile(r"(/(?:invitations|first)/)[\w-]{40,}")


class ContextFilter(logging.Filter):
    """Adds the context, and takes the tokens out of addresses that let in whoever has them."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if _SECRET_ADDRESS.search(said):
            record.msg, record.args = _SECRET_ADDRESS.sub(r"\1…", said), ()
        record.words = _context.get()
        record.context = "".join(f"{k}={v} " for k, v in _context.get().items())
        return True


class PlainFormatter(logging.Formatter):
    """For eyes. What somebody typed cannot begin a line of its own, nor command the terminal it is read in."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "words", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(entry, ensure_ascii=False))


class RequestIdMiddleware:
    """Gives each request an id, which its log lines and its answer's X-Request-Id carry."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = secrets.token_hex(8)
        with log_context(request=request_id):
            response = self.get_response(request)
        response["X-Request-Id"] = request_id
        return response
