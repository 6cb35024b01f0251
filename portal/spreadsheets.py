"""Files of comma-separated values, sent while they are written, that a spreadsheet takes for text and nothing else."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Iterable, Iterator

from channels.db import database_sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

# Takes each stretch of blanks at once, and no part of it twice: people may write thousands of them.
_BEGINNING = re.compile("(^|[;\t\r\n])([\\s\"']*+)(?=([=+\\-@\uff1d\uff0b\uff0d\uff20])?)")


def line(cells: Iterable[str]) -> str:
    """A spreadsheet takes what begins with one of these for a formula; an apostrophe stops it.

    Where semicolons separate cells, as in German, a cell may begin in the middle of one of ours.
    """
    written = io.StringIO()
    csv.writer(written).writerow(_BEGINNING.sub(_as_text, cell) for cell in cells)
    return written.getvalue()


def _as_text(found: re.Match[str]) -> str:
    before, blanks, sign = found.groups()
    is_one = sign or (not found.start() and found.string[:1] in ("\t", "\r"))
    return f"{before}'{blanks}" if is_one else found[0]


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
