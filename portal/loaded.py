"""What a process does once, before it begins: what it has loaded by then is there to stay.

Python's collector looks at all of it again and again, and takes a tenth of a second each time, in the middle of some
request. Of a person's page, or of the first line of a run, that is a good part.
"""

from __future__ import annotations

import gc

from django.conf import settings
from django.template.loader import get_template
from django.urls import get_resolver


def load_pages() -> None:
    """Views and templates, which would be loaded by the first request for each."""
    get_resolver().url_patterns  # noqa: B018 (a property that imports all of them)
    folder = settings.BASE_DIR / "templates"
    for file in sorted(folder.rglob("*.html")):
        get_template(str(file.relative_to(folder)))


def keep_what_is_loaded() -> None:
    """The collector leaves alone what is there now."""
    gc.collect()
    gc.freeze()
