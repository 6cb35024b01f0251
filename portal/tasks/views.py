"""Pages of tasks, and outputs by cursor. Permission is the subject's: who may see it may see what was done to it."""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.database import for_sockets
from portal.errors import Passing, PortalError
from portal.tasks import output as store
from portal.tasks import permission, registry
from portal.tasks.activity import activity
from portal.tasks.blocks import Piece, blocks, stub_with_line
from portal.tasks.callers import for_programs
from portal.tasks.causes import explain_task
from portal.tasks.following import follow
from portal.tasks.history import progress
from portal.tasks.ledger import cancel_task, retry_task, why_not_again
from portal.tasks.models import Output, Stream, Task
from portal.tasks.outputs import rank_name, time_of
from portal.tasks.searching import MOST_WORDS, Found, Place, search
from portal.tasks.subjects import Subject, seen_output

logger = logging.getLogger(__name__)


def _task_for(request: HttpRequest, uuid: UUID, *, change: bool = False) -> Task:
    """The task, if the person may see its subject; to change it, what the subject's own pages would ask for."""
    task = Task.objects.seen_by(request.user, uuid)
    if task is None:
        raise Http404
    registry.enter(request, task.subject)
    if change and not _may_change(request, task):
        raise PermissionDenied
    return task


def _may_change(request: HttpRequest, task: Task) -> bool:
    return bool(type(task.subject).objects.all().may_change(request.user, task.subject))


STREAMS = (("", "All streams"), ("stdout", "stdout"), ("stderr", "stderr"), ("portal,setup", "portal and set-up"))
MOST_ROWS = 500  # lines of a page without JavaScript: as many bytes as it reads may be as many lines


def viewer(
    output: Output, *, after: int | None = None, stream: str = "", rank: str = "", wanted: store.Filter | None = None
) -> dict[str, Any]:
    """What `_viewer.html` needs: rows for a page without JavaScript, and where a page with it begins.

    `wanted` is the filter that `stream` and `rank` are the words of. Rows go from `after` to `until`; `after` None:
    they are the last ones, and scripts begin at `start`. Where the output cannot be read now, `empty` says so, and the
    page is there all the same.
    """
    fault = ""
    try:
        start, until, pieces = _shown(output, after, wanted)
    except Passing as error:
        logger.warning("output %s: %s %s", output.uuid, error.message, error.evidence)
        start = until = min(after or 0, output.head)
        pieces, fault = [], f"{error.message} Reload the page in a while."
    return {
        "output": output,
        "start": start,
        "until": until,
        "rows": store.rows(output, pieces),
        "has_before": bool(pieces) and pieces[0].position > 0,
        "streams": [one.name.lower() for one in Stream if output.size(one)],
        "has_ranks": bool(output.nodes.get("of")) or any(piece.rank is not None for piece in pieces),
        "choices": STREAMS,
        "stream": stream,
        "rank": rank,
        "query": urlencode({name: value for name, value in (("rank", rank), ("stream", stream)) if wanted and value}),
        "empty": fault or (_nothing(stream, rank, so_far=not output.ended, part=after is not None) if wanted else ""),
    }


def _shown(output: Output, after: int | None, wanted: store.Filter | None) -> tuple[int, int, list[Piece]]:
    """Where a page begins and ends, and what its rows show."""
    pieces: list[Piece] = []
    if wanted and after is None:
        pieces = store.last_lines(store.tail(output, wanted), MOST_ROWS)
        return pieces[0].position if pieces else 0, output.head, pieces
    start = store.tail_position(output) if after is None else max(0, min(after, output.head))
    if wanted:
        pieces, until = store.find(output, wanted, start, limit=store.TAIL)
    else:
        pieces, until = _all(output, start, min(output.head, start + store.TAIL))
    if after is None:
        return start, until, store.last_lines(pieces, MOST_ROWS)
    shown = store.first_lines(pieces, MOST_ROWS)
    return start, shown[-1].end if shown and shown[-1].end < pieces[-1].end else until, shown


def _all(output: Output, start: int, end: int) -> tuple[list[Piece], int]:
    """All of its pieces between these positions, and where the last one ends."""
    pieces: list[Piece] = []
    while start < end and (more := store.read(output, start, until=end)):
        pieces += more
        start = more[-1].end
    return pieces, start


def _before(output: Output, wanted: store.Filter | None, start: int) -> tuple[int, bool]:
    """Where a page begins that ends at `start`, and whether there may be one."""
    if wanted:
        at, found = store.reach(output, wanted, start)
        pieces = store.find_all(output, wanted, at, start)
    else:
        at, found = max(0, start - store.TAIL), start
        pieces, _ = _all(output, at, start)
    last = store.last_lines(pieces, MOST_ROWS)
    return last[0].position if last else at, bool(at or found)


def _with_line(output: Output, line: int) -> int | None:
    """Where a page begins that has the line of this number in its midst; None where there is no such line."""
    if (stub := stub_with_line(output, line)) is None:
        return None
    at = max(0, stub.position - store.TAIL // 4)  # it may have begun before
    try:
        pieces, _ = _all(output, at, stub.end)
    except Passing:  # the page says so
        return at
    before = store.last_lines(store.first_lines(pieces, line - pieces[0].line), MOST_ROWS // 2)
    return before[0].position if before else at


def _nothing(stream: str, rank: str, *, so_far: bool, part: bool) -> str:
    """Why a page with a filter is empty, in words; the same in filter.js."""
    to = f" to {stream}" if stream in ("stdout", "stderr") else ""
    when = " in this part" if part else " so far" if so_far else ""
    words = ", ".join(rank.replace(",", " ").split())
    if not words:
        return f"{f'Nothing has been written{to}' if to else 'The portal has said nothing'}{when}."
    if re.fullmatch(r"[\d.]+", words):
        return f"Rank {words} has written nothing{to}{when}."
    return f"Ranks {'' if re.fullmatch(r'[0-9., -]+', words) else 'of '}{words} have written nothing{to}{when}."


@require_safe
@login_required
def task_page(request: HttpRequest, uuid: UUID) -> HttpResponse:
    task = _task_for(request, uuid)
    shown = progress(task)
    why, may_change, refusal = explain_task(task), _may_change(request, task), why_not_again(task)
    context = {
        "task": task,
        "subject": task.subject,
        "steps": shown.each,
        "progress": shown,
        "viewer": viewer(task.output),
        "may_change": may_change,
        "why": why,
        "ways_out": task.subject.ways_out(why) if why and may_change else [],
        "again": task if may_change and not refusal else None,
        "why_not_again": refusal,
    }
    if not task.destroys:
        context["subject_page"] = task.subject.get_absolute_url()
    target = request.headers.get("HX-Target", "")
    part = {"task-head": "tasks/task.html#head", "task-steps": "tasks/task.html#steps"}.get(target, "tasks/task.html")
    return render(request, part, context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def cancel(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """GET says what will be undone; POST asks for it."""
    task = _task_for(request, uuid, change=True)
    if request.method == "POST":
        with transaction.atomic():
            if cancel_task(task, by=request.user):
                registry.record("cancelled", task, by=request.user)
            else:
                messages.info(request, "It had ended already.")
        return redirect("task", uuid=uuid)
    return render(request, "tasks/cancel.html", {"task": task, "subject": task.subject})


@login_required
@require_POST
def retry(request: HttpRequest, uuid: UUID) -> HttpResponse:
    task = _task_for(request, uuid, change=True)
    try:
        with transaction.atomic():
            retry_task(task, by=request.user)
            registry.record("tried again", task, by=request.user)
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("task", uuid=uuid)


def _output_for(request: HttpRequest, uuid: UUID) -> tuple[Output, Subject]:
    """The output, if the person may see what it is of; and that."""
    found = seen_output(request.user, uuid)
    if found is None:
        raise Http404
    return found


@login_required
@require_safe
def output_frame(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What is stored from `?after=` on, up to `?until=`, as one frame; what the live socket sends too.

    With `?stream=` or `?rank=` a filtered frame: see `store.frame` and `store.Filter`.
    """
    output, _ = _output_for(request, uuid)
    try:
        after = max(0, int(request.GET.get("after", 0)))
        until = min(int(request.GET["until"]), output.head) if "until" in request.GET else output.head
        wanted = _wanted(request, output)
    except ValueError as error:
        raise Http404 from error
    try:
        if wanted is None:
            frame = store.frame(output, after, blocks(output, after, until=until))
        else:
            pieces, looked = store.find(output, wanted, after, until=until)
            frame = store.filtered_frame(output, after, looked, pieces)
    except Passing as error:
        return _unread(output, error)
    return HttpResponse(frame, content_type="application/octet-stream")


def _unread(output: Output, error: Passing) -> HttpResponse:
    """The output cannot be read now: the page asks again."""
    logger.warning("output %s: %s %s", output.uuid, error.message, error.evidence)
    return HttpResponse(error.message, status=503, content_type="text/plain; charset=utf-8", headers={"Retry-After": 5})


def _wanted(request: HttpRequest, output: Output) -> store.Filter | None:
    """The filter that `?stream=` and `?rank=` ask for. Raises ValueError in words."""
    return store.Filter.parse(output, stream=request.GET.get("stream", ""), rank=request.GET.get("rank", ""))


@login_required
@require_safe
def output_reach(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Where to read from to have `?enough=` bytes of what a filter takes before `?before=`, see `store.reach`.

    Or the position near which `?line=` ends, by its number; null where there is no such line.
    """
    output, _ = _output_for(request, uuid)
    try:
        if "line" in request.GET:
            stub = stub_with_line(output, int(request.GET["line"]))
            return JsonResponse({"position": stub.position if stub else None})
        before = min(int(request.GET.get("before", output.head)), output.head)
        enough = max(1, min(int(request.GET.get("enough", store.TAIL)), store.TAIL))
        wanted = _wanted(request, output) or store.Filter()
    except ValueError as error:
        raise Http404 from error
    try:
        position, found = store.reach(output, wanted, before, enough=enough)
    except Passing as error:
        return _unread(output, error)
    return JsonResponse({"position": position, "found": found})


@login_required
@require_safe
def output_nodes(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """`Output.nodes`: which rank runs on which node, as far as it is known."""
    return JsonResponse(_output_for(request, uuid)[0].nodes)


@login_required
@require_safe
def output_page(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The output alone, from `?after=` or `?line=` on, or the end of what `?rank=` and `?stream=` ask for."""
    output, subject = _output_for(request, uuid)
    task = Task.objects.filter(output=output).order_by("-pk").first()
    registry.enter(request, subject)
    wanted, fault = None, ""
    try:
        wanted = _wanted(request, output)
    except ValueError as error:
        fault = str(error)
    try:
        after = max(0, int(request.GET["after"])) if "after" in request.GET else None
        if "line" in request.GET and (near := _with_line(output, int(request.GET["line"]))) is not None:
            after = near
    except ValueError as error:
        raise Http404 from error
    stream, rank = request.GET.get("stream", ""), request.GET.get("rank", "")
    shown = viewer(output, after=after if wanted else after or 0, stream=stream, rank=rank, wanted=wanted)
    start = shown["start"]
    try:
        earlier, has_earlier = _before(output, wanted, start)
    except Passing:  # the page says so
        earlier, has_earlier = 0, False
    context = {
        "task": task,
        "subject": subject,
        "title": task.title if task else str(subject),
        "viewer": shown | {"fault": fault},
        "earlier": earlier,
        "has_earlier": has_earlier,
    }
    return render(request, "tasks/output.html", context)


@login_required
@require_safe
def output_activity(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """How much each rank has written when, see `Activity.words`.

    A large output takes some calls: `read` of `head` says how far.
    """
    output, _ = _output_for(request, uuid)
    try:
        found = activity(output)
    except Passing as error:
        return _unread(output, error)
    return JsonResponse(found.words(output))


HITS = 100  # on one page of a search


@login_required
@require_safe
def output_search(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Lines with `?find=` in all that `?stream=` and `?rank=` ask for, from `?after=` on: a page, or JSON.

    One call looks through a part of a large output: `next` is where the next one goes on, null at the end.
    """
    output, subject = _output_for(request, uuid)
    words, stream, rank = (request.GET.get(name, "") for name in ("find", "stream", "rank"))
    words, fault = words[:MOST_WORDS].strip("\r\n"), ""
    found, wanted = Found([], None, 0), None
    try:
        wanted = _wanted(request, output)
        after = Place.parse(request.GET.get("after", "0:0"))
    except ValueError as error:
        if "after" in request.GET:
            raise Http404 from error
        fault = str(error)
    else:
        try:
            if words:
                found = search(output, words, wanted, after, most=HITS)
        except Passing as error:
            return _unread(output, error)
    hits: list[dict[str, Any]] = [
        {
            "line": hit.line,
            "position": hit.position,
            "ms": hit.ms,
            "stream": hit.stream,
            "rank": rank_name(hit.world, hit.rank) if hit.rank is not None else "",
            "text": hit.text,
        }
        for hit in found.hits
    ]
    following = str(found.following) if found.following else None
    if request.get_preferred_type(["text/html", "application/json"]) == "application/json":
        return JsonResponse({"hits": hits, "next": following, "looked": found.looked, "head": output.head})
    registry.enter(request, subject)
    asked = {"find": words, "rank": rank, "stream": stream}
    context = {
        "output": output,
        "subject": subject,
        "find": words,
        "rank": rank,
        "stream": stream,
        "choices": STREAMS,
        "fault": fault,
        "hits": [hit | {"at": time_of(hit["ms"]), "mark": Stream(hit["stream"]).name.lower()} for hit in hits],
        "looked": found.looked,
        "begun": "after" in request.GET,
        "query": urlencode({name: value for name, value in asked.items() if value and name != "find"}),
        "later": urlencode(asked | {"after": following}) if following else "",
    }
    return render(request, "tasks/search.html", context)


@require_safe
@for_programs
def output_download(request: HttpRequest, person: Any, uuid: UUID) -> HttpResponseBase:
    """What `?stream=` and `?rank=` ask for, or all of it; also for whoever calls with an API token.

    As whole lines, which those of different ranks would not be in the order in which their bytes arrived; with
    `?tags=1` each says whose it is, with `?times=1` when it was written. Of one rank without these, and of all with
    `?order=arrival`, the bytes are as they were stored. The checksums of `Output.digests` are of
    `?order=arrival&stream=NAME`, and `Repr-Digest` says it. With `?follow=1` it goes on until the output has ended.
    """
    seen = seen_output(person, uuid)
    if seen is None:
        raise Http404
    output = seen[0]
    order = request.GET.get("order", "lines")
    try:
        wanted = _wanted(request, output)
        if order not in ("lines", "arrival"):
            raise ValueError(order)
    except ValueError as error:
        raise Http404 from error
    lines = store.Lines(tags=request.GET.get("tags") == "1", times=request.GET.get("times") == "1")
    plain = order == "arrival" or bool(wanted and wanted.one_writer and not lines.tags and not lines.times)
    # Each kind of server has its own: a synchronous iterator would be gathered in memory under ASGI.
    asynchronous = isinstance(request, ASGIRequest)
    follows = request.GET.get("follow") == "1" and request.method == "GET"
    body: Any
    if follows:
        form, end = (store.bytes_of, bytes) if plain else (lines.feed, lines.end)
        body = follow(output, wanted, form, end, _recheck(request, output, by_token=person is not request.user))
    elif plain:
        body = (store.stream_bytes_async if asynchronous else store.stream_bytes)(output, wanted)
    else:
        body = (store.stream_lines_async if asynchronous else store.stream_lines)(output, wanted, lines)
    response = StreamingHttpResponse(body, content_type="text/plain; charset=utf-8")
    if follows:
        response["X-Accel-Buffering"] = "no"  # a proxy must not gather it
        return response
    asked = " ".join([str(uuid)[:8], request.GET.get("stream", ""), request.GET.get("rank", "")])
    name = re.sub(r"[^A-Za-z0-9.]+", "-", asked).strip("-")[:80]
    response["Content-Disposition"] = f'attachment; filename="output-{name}.txt"'
    if order == "arrival" and wanted is None:
        response["Content-Length"] = str(output.head)
    elif order == "arrival" and wanted and wanted.ranks is None and len(wanted.streams) == 1:
        stream = Stream(min(wanted.streams))
        response["Content-Length"] = str(output.size(stream))
        if output.is_kept and (digest := output.digests.get(stream.name.lower())):
            response["Repr-Digest"] = f"sha-256=:{b64encode(bytes.fromhex(digest)).decode()}:"
    return response


def _recheck(request: HttpRequest, output: Output, *, by_token: bool) -> Callable[[], Awaitable[bool]]:
    """Whether who has asked may still see the output: the session, or the token, is looked up again."""

    @for_sockets
    def of_token() -> bool:
        return seen_output(registry.caller(request), output.uuid) is not None

    async def of_session() -> bool:
        return await permission.refusal(request.session.session_key, [output.live_name]) is None

    return of_token if by_token else of_session
