"""Files of comma-separated values, sent while they are written, that a spreadsheet takes for text and nothing else."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Iterable, Iterator

from channels.db import database_sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

_FORMULA = re.compile("(^|[;\t\r\n])([\\s\"']*[=+\\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r])")


def line(cells: Iterable[str]) -> str:
    """A spreadsheet takes what begins with one of these for a formula; an apostrophe stops it.

    Where semicolons separate cells, as in German, a cell may begin in the middle of one of ours.
    """
    written = io.StringIO()
    csv.writer(written).writerow(_FORMULA.sub(r"\1'\2", cell) for cell in cells)
    return written.getvalue()


def download(request: HttpRequest, name: str, lines: Iterator[str]) -> StreamingHttpResponse:
    """The lines as a file of this name, each asked for when the one before it has gone."""
    # Each kind of server has its own: a synchronous iterator would be gathered in memory under ASGI.
    content = _in_turn(lines) if isinstance(request, ASGIRequest) else lines
    response = StreamingHttpResponse(content, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


async def _in_turn(lines: Iterator[str]) -> AsyncIterator[str]:
    following = database_sync_to_async(lambda: next(lines, None))
    while (text := await following()) is not None:
        yield text
