"""What was used in a workspace and in an organization, by month: as pages and as files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.timezone import now
from django.views.decorators.http import require_safe

from accounts.access import Can
from accounts.place import enter_organization
from portal.spreadsheets import download, line
from usage.amounts import Amount
from usage.models import Record, RecordQuerySet
from usage.months import later, month_of
from usage.report import MONTHS, report
from workspaces.models import Workspace
from workspaces.place import workspace_for

BATCH = 1000


@require_safe
@login_required
def workspace_usage(request: HttpRequest, uuid: UUID) -> HttpResponse:
    workspace = workspace_for(request, uuid, Can.VIEW)
    context = {
        "workspace": workspace,
        "csv": reverse("workspace-usage-csv", args=[uuid]),
        **_report(request, Record.objects.filter(workspace=uuid), since=workspace.created),
    }
    return render(request, "usage/workspace_usage.html", context)


@require_safe
@login_required
def organization_usage(request: HttpRequest) -> HttpResponse:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    inside = Workspace.objects.where(request.user, Can.VIEW).filter(organization=organization)
    context = {
        "csv": reverse("organization-usage-csv"),
        "inside": set(inside.values_list("uuid", flat=True)),  # to others no page of it is open
        **_report(request, Record.objects.filter(organization=organization.uuid), since=organization.created),
    }
    return render(request, "usage/organization_usage.html", context)


@require_safe
@login_required
def workspace_usage_csv(request: HttpRequest, uuid: UUID) -> HttpResponseBase:
    workspace = workspace_for(request, uuid, Can.VIEW)
    return _file(request, Record.objects.filter(workspace=workspace.uuid))


@require_safe
@login_required
def organization_usage_csv(request: HttpRequest) -> HttpResponseBase:
    organization = enter_organization(request, Can.MANAGE_ORGANIZATION)
    return _file(request, Record.objects.filter(organization=organization.uuid))


def _month(request: HttpRequest) -> date | None:
    """That of the address; None where it names none. Raises Http404 for what is no month, or is to come."""
    asked = request.GET.get("month")
    if asked is None:
        return None
    try:
        month = date.fromisoformat(f"{asked}-01")
    except ValueError as error:
        raise Http404 from error
    if not date(2000, 1, 1) <= month <= month_of(now()):
        raise Http404
    return month


def _report(request: HttpRequest, records: RecordQuerySet, *, since: datetime) -> dict[str, Any]:
    at = now()
    found = report(records, _month(request) or month_of(at), now=at)
    before = later(found.months[-1].first, -1)
    after = later(found.months[0].first, MONTHS)
    return {
        "report": found,
        "earlier": before if before >= month_of(since) else None,
        "later": min(after, month_of(at)) if found.months[0].first < month_of(at) else None,
    }


_COLUMNS = (
    *("month", "workspace", "workspace_uuid", "cluster", "cluster_uuid", "made_by", "instance_type", "cores_per_node"),
    *("nodes", "spot", "from", "until", "minutes", "node_hours", "core_hours", "dollars_per_node_hour", "dollars"),
)


def _file(request: HttpRequest, records: RecordQuerySet) -> HttpResponseBase:
    """The records of one month, or all of them; times are UTC."""
    month = _month(request)
    name = f"usage-{month:%Y-%m}.csv" if month else "usage.csv"
    return download(request, name, _lines(records.between(month, month) if month else records, month))


def _lines(records: RecordQuerySet, month: date | None) -> Iterator[str]:
    yield line(_COLUMNS)
    at, last = now(), 0
    while batch := list(records.filter(pk__gt=last).order_by("pk")[:BATCH]):
        yield "".join(line(cells) for record in batch for cells in _cells(record, month, at))
        last = batch[-1].pk


def _cells(record: Record, month: date | None, at: datetime) -> Iterator[list[str]]:
    """Of a record that goes on, one line for each of its months, without an end."""
    pieces = record.pieces(at)
    for start, end, minutes in pieces:
        if month is not None and month_of(start) != month:
            continue
        amount = Amount.of(minutes, nodes=record.node_count, cores=record.cores_per_node, price=record.hourly_price)
        goes_on = record.ended is None and end == pieces[-1][1]
        yield [
            f"{month_of(start):%Y-%m}", record.workspace_name, str(record.workspace), record.cluster_name,
            str(record.cluster), record.person_name, record.instance_type, str(record.cores_per_node),
            str(record.node_count), "yes" if record.spot else "no", f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "" if goes_on else f"{end:%Y-%m-%dT%H:%M:%SZ}", str(minutes), f"{amount.node_hours:.4f}",
            f"{amount.core_hours:.4f}", "" if record.hourly_price is None else str(record.hourly_price),
            "" if amount.cost is None else f"{amount.cost:.6f}",
        ]  # fmt: skip
