from __future__ import annotations

from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe
from django.views.static import serve

from jobs import repositories


@require_safe
def example_file(request: HttpRequest, name: str, file: str) -> HttpResponseBase:
    """Git's plain HTTP protocol over files: the examples are public, and nodes clone them from here."""
    if name not in repositories.names():
        raise Http404
    return serve(request, file, document_root=str(repositories.publish(name)))
