"""Own machines: a cloud configuration's pools, and the computers in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import BooleanField, ExpressionWrapper
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from accounts.forms import ConfirmDeleteForm
from accounts.place import person
from portal.clouds.machines.models import Computer, Pool
from portal.cursors import Page, cursor_of, page_of
from portal.errors import PortalError
from portal.forms import refusals_in
from portal.tasks import registry
from portal.text import uuid_in
from workspaces import pools
from workspaces.models import CloudConfig
from workspaces.poolforms import AddComputersForm, ComputerFilterForm, PoolForm, chosen_keys
from workspaces.views.configs import cloud_config_for

PAGE = 50
MOST_TO_CONFIRM = 100
EVENTS = 50


def pool_for(request: HttpRequest, uuid: UUID) -> tuple[CloudConfig, Pool]:
    """The one of the address, with its configuration. 404 to whoever administers no organization that has it."""
    pool = Pool.objects.filter(uuid=uuid).first()
    return _config_of(request, pool, uuid), _there(pool)


def computer_for(request: HttpRequest, uuid: UUID) -> tuple[CloudConfig, Computer]:
    computer = Computer.objects.with_others().select_related("pool").filter(uuid=uuid).first()
    return _config_of(request, computer.pool if computer else None, uuid), _there(computer)


def _config_of(request: HttpRequest, pool: Pool | None, uuid: UUID) -> CloudConfig:
    return cloud_config_for(request, pool.account if pool else uuid)


def _there(row: Any) -> Any:
    if row is None:
        raise Http404
    return row


@dataclass(frozen=True)
class Holder:
    """The cluster that has a computer. `url` is empty for whoever may not see into its workspace."""

    name: str
    url: str = ""


def holders(request: HttpRequest, subjects: Iterable[str]) -> dict[str, Holder]:
    """By the uuid of the cluster; those that the portal has a row of."""
    asked = {subject for subject in subjects if subject}
    model: Any = registry.subjects.get("cluster")
    if not asked or model is None:
        return {}
    rows = model.objects.filter(uuid__in=asked)
    seen = rows.granted(request.user, rows.sees)
    rows = rows.annotate(is_seen=ExpressionWrapper(seen, BooleanField())).only("uuid", "name")
    return {str(row.uuid): Holder(str(row), row.get_absolute_url() if row.is_seen else "") for row in rows}


def _holder(computer: Computer, clusters: Mapping[str, Holder]) -> Holder | None:
    """Of those that have it by another pool, nothing is told to whoever may not see into their workspace."""
    found = clusters.get(computer.subject or computer.held_elsewhere)
    if not computer.is_taken and computer.is_busy and not (found and found.url):
        return Holder("another portal" if computer.marked and not computer.held_elsewhere else "another pool")
    return found


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_pool(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config = cloud_config_for(request, uuid)
    if config.kind != CloudConfig.Kind.MACHINES:
        raise Http404
    like = _like(config, request.GET.get("like", ""))
    form = PoolForm(request.POST or None, config=config, like=like, initial={"alone": like is not None})
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with refusals_in(form):
            words = {name: data[name] for name in ("name", "user", "base", "alone")}
            pool = pools.create_pool(config, **words, like=like, by=person(request), uuid=data["key"])
            return redirect("pool", uuid=pool.uuid)
    return render(request, "workspaces/pool_new.html", {"config": config, "form": form, "like": like})


def _like(config: CloudConfig, uuid: str) -> Pool | None:
    """The pool of this configuration to whose computers another account is added, if the address names one."""
    found = uuid_in(uuid)
    return Pool.objects.filter(account=config.uuid, uuid=found).first() if found else None


@require_http_methods(["GET", "HEAD"])
@login_required
def pool(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What has to be confirmed, and each computer with who has it; what is found of them is in the address."""
    config, found = pool_for(request, uuid)
    form = ComputerFilterForm(request.GET)
    rows = found.computers.with_others().defer("facts", "certificates")
    computers = list(rows.order_by("hostname", "address", "port", "pk"))
    new = [one for one in computers if not one.host_public]
    known = [one for one in computers if one.host_public]
    page = _page(filter(form.finds, known) if form.is_valid() else (), request.GET)
    clusters = holders(request, (one.subject or one.held_elsewhere for one in page.rows))
    context = {
        "config": config,
        "pool": found,
        "counts": _counts(computers),
        "to_confirm": new[:MOST_TO_CONFIRM],
        "can_confirm": any(one.host_shown for one in new),
        "rows": [(one, _holder(one, clusters)) for one in page.rows],
        "form": form,
        "beside": pools.beside(found),
        "filtered": any(request.GET.get(name) for name in ("q", "state")),
        **page.context,
    }
    part = "workspaces/pool.html#live" if request.headers.get("HX-Target") == "pool-live" else ""
    return render(request, part or "workspaces/pool.html", context)


def _page(computers: Iterable[Computer], query: QueryDict) -> Page[Computer]:
    """What comes behind the computer that the address names. A pool has few enough to have all at hand."""
    rows, cursor = list(computers), cursor_of(query)
    place = next((place for place, one in enumerate(rows, 1) if one.uuid == cursor), 0)
    return page_of(rows[place : place + PAGE + 1], PAGE, query)


def _counts(computers: Sequence[Computer]) -> dict[str, int]:
    """`cores` are those of computers that are free."""
    return {
        "all": len(computers),
        "confirmed": sum(bool(one.host_public) for one in computers),
        "free": sum(one.is_free for one in computers),
        "cores": sum(one.cores for one in computers if one.is_free),
        "taken": sum(one.is_busy for one in computers),
        "refused": sum(one.state == Computer.State.REFUSED for one in computers),
        "away": sum(one.state == Computer.State.AWAY for one in computers),
    }


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def add_computers(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config, found = pool_for(request, uuid)
    form = AddComputersForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            asked = form.cleaned_data["places"]
            made = pools.add_computers(config, found, asked, by=person(request))
            had = len(asked) - len(made)
            words = f"{_many(len(made))} added. The portal asks for the host keys now."
            messages.success(request, f"{words} The pool had {_many(had)} already." if had else words)
            return redirect("pool", uuid=uuid)
    return render(request, "workspaces/pool_add.html", {"config": config, "pool": found, "form": form})


def _many(count: int) -> str:
    return f"{count} computer{'s' if count != 1 else ''}"


@require_POST
@login_required
def confirm_keys(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config, found = pool_for(request, uuid)
    chosen = chosen_keys(request.POST.getlist("computer"))
    if not chosen:
        messages.error(request, "Tick the computers whose host keys you have compared.")
        return redirect("pool", uuid=uuid)
    try:
        confirmed = pools.confirm_keys(config, found, chosen, by=person(request))
        messages.success(request, f"{_many(len(confirmed))} confirmed. They are checked now.")
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("pool", uuid=uuid)


@require_POST
@login_required
def check_pool(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config, found = pool_for(request, uuid)
    pools.check_now(config, found)
    return redirect("pool", uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_pool(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config, found = pool_for(request, uuid)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            pools.delete_pool(config, found, by=person(request))
            messages.success(request, f"The pool {found.name} is deleted.")
            return redirect(config)
    context = {
        "config": config,
        "pool": found,
        "form": form,
        "taken": found.computers.exclude(subject="")[:20],
        "workspaces": config.workspaces.live().filter(region__iexact=found.name).order_by("name"),
        "computers": found.computers.count(),
    }
    return render(request, "workspaces/pool_delete.html", context)


@require_http_methods(["GET", "HEAD"])
@login_required
def computer(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What it is, what the last check has found, who has it, and what became of it so far."""
    config, found = computer_for(request, uuid)
    events = list(found.events.all()[:EVENTS])
    clusters = holders(request, (found.subject or found.held_elsewhere, *(event.subject for event in events)))
    context = {
        "config": config,
        "pool": found.pool,
        "computer": found,
        "holder": _holder(found, clusters),
        "events": [(event, clusters.get(event.subject)) for event in events],
        "most_events": EVENTS,
    }
    part = "workspaces/computer.html#live" if request.headers.get("HX-Target") == "computer-live" else ""
    return render(request, part or "workspaces/computer.html", context)


@require_POST
@login_required
def check_computer(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """With its whole pool: most of what is checked lies between computers."""
    config, found = computer_for(request, uuid)
    pools.check_now(config, found.pool)
    return redirect("computer", uuid=uuid)


@require_POST
@login_required
def disable_computer(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config, found = computer_for(request, uuid)
    pools.set_disabled(config, found, True, by=person(request))
    return redirect("computer", uuid=uuid)


@require_POST
@login_required
def enable_computer(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config, found = computer_for(request, uuid)
    pools.set_disabled(config, found, False, by=person(request))
    return redirect("computer", uuid=uuid)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def accept_key(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Both keys, and that the new one is the right one, confirmed by typing."""
    config, found = computer_for(request, uuid)
    if not (found.host_public and found.host_shown) and request.method != "POST":
        return redirect("computer", uuid=uuid)
    form = ConfirmDeleteForm(request.POST or None, expected=str(found))
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            pools.accept_new_key(config, found, request.POST.get("seen", ""), by=person(request))
            messages.success(request, "The new host key is accepted. The computer is checked now.")
            return redirect("computer", uuid=uuid)
    context = {"config": config, "pool": found.pool, "computer": found, "form": form}
    return render(request, "workspaces/computer_key.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_computer(request: HttpRequest, uuid: UUID) -> HttpResponse:
    config, found = computer_for(request, uuid)
    form = ConfirmDeleteForm(request.POST or None, expected=str(found))
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            pools.remove_computer(config, found, by=person(request))
            messages.success(request, f"{found} is removed from the pool.")
            return redirect("pool", uuid=found.pool.uuid)
    context = {
        "config": config,
        "pool": found.pool,
        "computer": found,
        "form": form,
        "holder": holders(request, [found.subject]).get(found.subject),
    }
    return render(request, "workspaces/computer_remove.html", context)
