"""The examples, as Git repositories that anybody may clone."""

from __future__ import annotations

from pathlib import Path

from django.core.exceptions import SuspiciousFileOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.utils._os import safe_join
from django.views.decorators.http import require_safe

from jobs import repositories


@require_safe
def example_file(request: HttpRequest, name: str, file: str) -> HttpResponse:
    """Git's plain HTTP protocol over files: the examples are public, and nodes clone them from here."""
    if name not in repositories.names():
        raise Http404
    try:
        path = Path(safe_join(repositories.publish(name), file))
        return HttpResponse(path.read_bytes(), content_type="application/octet-stream")
    except (SuspiciousFileOperation, OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Http404 from error
