from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import Can, get_for
from accounts.forms import ConfirmDeleteForm
from accounts.place import person
from clusters import reconcile, strays
from portal.errors import PortalError
from portal.forms import refusals_in
from workspaces.models import Stray
from workspaces.place import enter_of


def _stray_for(request: HttpRequest, uuid: UUID) -> Stray:
    rows = Stray.objects.select_related("cloud_config__organization")
    found = get_for(rows, request.user, Can.MANAGE_ORGANIZATION, uuid=uuid)
    enter_of(request, found.cloud_config)
    return found


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def stray(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """What there is, as it was seen last, and what can be done with it; POST destroys it."""
    found = _stray_for(request, uuid)
    form = ConfirmDeleteForm(request.POST or None, expected=found.subject[:8])
    if request.method == "POST" and form.is_valid():
        with refusals_in(form):
            return redirect("task", uuid=strays.destroy(found, by=person(request)).uuid)
    context = {
        "stray": found,
        "form": form,
        "plan": strays.plan_for(found).on(found.can),
        "tasks": found.tasks.select_related("asked_by", "output").order_by("-pk"),
        "why_not_adopted": reconcile.why_not_adopted(found),
    }
    return render(request, "clusters/stray.html", context)


@require_POST
@login_required
def adopt(request: HttpRequest, uuid: UUID) -> HttpResponse:
    found = _stray_for(request, uuid)
    try:
        return redirect("task", uuid=strays.adopt(found, by=person(request)).uuid)
    except PortalError as error:
        messages.error(request, error.message)
        return redirect(found)
