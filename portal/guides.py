"""Guides of docs/ as pages: what whoever reads a page of the portal may need to know at once.

They are written in a small part of Markdown: headings, paragraphs, lists, lines of code, `code` and **emphasis**.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import slugify
from django.views.decorators.http import require_safe

AWS = "aws-troubleshooting.md"
_ITEM = re.compile(r"(?:- |\d+\. )")
_SPAN = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*")


@login_required
@require_safe
def aws(request: HttpRequest) -> HttpResponse:
    title, sections = read(AWS)
    return render(request, "guide.html", {"title": title, "sections": sections})


@lru_cache(maxsize=4)
def read(name: str) -> tuple[str, list[tuple[str, str, SafeString]]]:
    """Its title, and of each section its anchor, its heading and its text. What comes first has no heading."""
    first, *rest = re.split(r"^## (.+)\n", (settings.BASE_DIR / "docs" / name).read_text(), flags=re.M)
    title, _, before = first.removeprefix("# ").partition("\n")
    pairs = [("", before), *zip(rest[::2], rest[1::2], strict=True)]
    return title, [(slugify(heading), heading, SafeString("".join(_blocks(text)))) for heading, text in pairs]


def _blocks(text: str) -> Iterator[str]:
    for block in filter(str.strip, text.split("\n\n")):
        lines = block.strip("\n").splitlines()
        if all(line.startswith("    ") for line in lines):
            yield format_html("<pre tabindex=0>{}</pre>", "\n".join(line[4:] for line in lines))
            continue
        parts = [list(part) for _, part in groupby(lines, key=_Items())]
        if not _ITEM.match(lines[0]):
            yield f"<p>{_spans(' '.join(lines))}</p>"
            continue
        kind = "ol" if lines[0][0].isdigit() else "ul"
        items = (_spans(_ITEM.sub("", " ".join(map(str.strip, part)), count=1)) for part in parts)
        yield f"<{kind}>{''.join(f'<li>{item}</li>' for item in items)}</{kind}>"


class _Items:
    """The number of the item that a line belongs to."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, line: str) -> int:
        self.number += bool(_ITEM.match(line))
        return self.number


def _spans(text: str) -> SafeString:
    def marked(found: re.Match[str]) -> str:
        code, strong, emphasis = found.groups()
        name, inner = ("code", code) if code else ("strong", strong) if strong else ("em", emphasis)
        return f"<{name}>{inner}</{name}>"

    return mark_safe(_SPAN.sub(marked, escape(text)))  # noqa: S308 (escaped before it is marked)
