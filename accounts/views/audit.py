"""What was done in an organization: a page that finds it, and a file of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, time, timedelta
from uuid import UUID

from django.apps import apps
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.utils.timezone import make_aware
from django.views.decorators.http import require_safe

from accounts.access import AccessQuerySet, Can
from accounts.audit import changes
from accounts.forms import (
    AuditFilterForm,
)
from accounts.models import (
    AuditChain,
    AuditEvent,
    AuditEventQuerySet,
    Organization,
    User,
)
from accounts.place import enter_organization, person
from portal.spreadsheets import download, line

AUDIT_PAGE = 50  # entries on one page


def _audit(organization: Organization, query: QueryDict) -> tuple[AuditFilterForm, AuditEventQuerySet]:
    """The form and the entries that it asks for, newest first; none where it asks for what cannot be."""
    chain = AuditChain.objects.filter(organization=organization.uuid).first()
    entries = AuditEvent.objects.filter(chain=chain) if chain else AuditEvent.objects.none()
    verbs = entries.verbs(chain) if chain else []
    form = AuditFilterForm(query, organization=organization, verbs=verbs)
    if not form.is_valid():
        return form, entries.none()
    asked = form.cleaned_data
    if asked["day"]:
        midnight = datetime.combine(asked["day"], time())
        try:
            entries = entries.between(make_aware(midnight), make_aware(midnight + timedelta(days=1)))
        except OverflowError:
            entries = entries.none()
    if asked["q"]:
        entries = entries.about(asked["q"])
    if asked["verb"]:
        entries = entries.filter(verb=asked["verb"])
    if asked["workspace"]:
        entries = entries.filter(workspace=asked["workspace"])
    return form, entries.order_by("-number")


def _older_than(entries: AuditEventQuerySet, number: int | None) -> AuditEventQuerySet:
    return entries.filter(number__lt=number) if number else entries


@require_safe
@login_required
def audit(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.READ_AUDIT)
    form, entries = _audit(organization, request.GET)
    before = form.cleaned_data.get("before")
    found = list(_older_than(entries, before)[: AUDIT_PAGE + 1])
    shown = found[:AUDIT_PAGE]
    pages = _pages_of(shown, person(request))
    view = request.GET.copy()
    view.pop("before", None)
    context = {
        "form": form,
        "rows": [(event, changes(event), pages.get((event.kind, event.subject))) for event in shown],
        "older": shown[-1].number if len(found) > AUDIT_PAGE else None,
        "before": before,
        "filtered": any(request.GET.get(name) for name in ("q", "verb", "workspace", "day")),
        "view": view.urlencode(),
    }
    return render(request, "accounts/audit.html", context)


def _pages_of(events: Iterable[AuditEvent], reader: User) -> dict[tuple[str, UUID | None], str]:
    """The addresses of what is still there and this person may see. A kind's page has the kind's name."""
    found: dict[tuple[str, UUID | None], str] = {}
    for model in apps.get_models():
        rows, kind = model._default_manager.all(), str(model._meta.verbose_name)
        uuids = {event.subject for event in events if event.kind == kind}
        if uuids and isinstance(rows, AccessQuerySet):
            for uuid in rows.where(reader, rows.sees).filter(uuid__in=uuids).values_list("uuid", flat=True):
                try:
                    found[kind, uuid] = reverse(kind, args=[uuid])
                except NoReverseMatch:
                    break
    return found


@require_safe
@login_required
def audit_csv(request: HttpRequest) -> HttpResponseBase:
    """All entries of the view, read a thousand at a time while they are sent."""
    organization = enter_organization(request, Can.READ_AUDIT)
    _, entries = _audit(organization, request.GET)
    return download(request, "audit.csv", _csv_lines(entries))


_COLUMNS = (
    *("number", "at", "actor_name", "actor", "how", "verb", "kind", "subject_name", "subject", "workspace"),
    *("changes", "address", "request_id", "hash"),
)


def _csv_lines(entries: AuditEventQuerySet) -> Iterator[str]:
    yield line(_COLUMNS)
    last = None
    while batch := list(_older_than(entries, last)[:1000]):
        yield "".join(line(_cell(event, column) for column in _COLUMNS) for event in batch)
        last = batch[-1].number


def _cell(event: AuditEvent, column: str) -> str:
    if column == "changes":
        return "; ".join(
            f"{name}: {old} → {new}" if old and new else f"{name}: {new or old}" for name, old, new in changes(event)
        )
    value = getattr(event, column)
    return value.isoformat() if isinstance(value, datetime) else "" if value is None else str(value)
