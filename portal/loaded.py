"""What a process does once, before it begins: what it has loaded by then is there to stay.

Python's collector looks at all of it again and again, and takes a tenth of a second each time, in the middle of some
request. Of a person's page, or of the first line of a run, that is a good part.
"""

from __future__ import annotations

import gc
import sys

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


def give_way_often() -> None:
    """For a process with an event loop beside threads that compute: a page that is rendered does not hold up output.

    Python lets a thread go on for 5 ms before another that waits has its turn, and what is new of an output needs
    several turns on its way from the doorbell to the page.
    """
    sys.setswitchinterval(0.001)
