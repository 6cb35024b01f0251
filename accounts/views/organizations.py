"""Organizations: made, chosen, looked at, changed, deleted."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db.models import Func, IntegerField, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import Can
from accounts.actions import (
    change_organization,
    create_organization,
    delete_organization,
    why_not_deletable,
)
from accounts.forms import (
    ConfirmDeleteForm,
    OrganizationForm,
    OrganizationSettingsForm,
)
from accounts.holdings import holdings
from accounts.models import (
    Membership,
    Organization,
)
from accounts.place import choose, enter_if_any, enter_organization, person, switch
from accounts.signin import confirm
from portal.forms import refusals_in


@require_safe
@login_required
def organizations(request: HttpRequest) -> HttpResponse:
    """All that the person is in; where somebody comes who is in none."""
    enter_if_any(request)
    mine = Membership.objects.filter(user=person(request)).select_related("organization").order_by("organization__name")
    return render(request, "accounts/organizations.html", {"memberships": mine, "may_create": _may_create(request)})


def _may_create(request: HttpRequest) -> bool:
    return bool(settings.OPEN_ORGANIZATIONS) or person(request).is_superuser


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_organization(request: HttpRequest) -> HttpResponse:
    if not _may_create(request):
        raise PermissionDenied
    form = OrganizationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        organization = create_organization(form.cleaned_data["name"], by=person(request))
        choose(request, organization)
        messages.success(request, f"{organization.name} is made, and you are in it now.")
        return redirect("dashboard")
    enter_if_any(request)
    return render(request, "accounts/organization_new.html", {"form": form})


@require_POST
@login_required
def switch_organization(request: HttpRequest) -> HttpResponse:
    try:
        found = switch(request, UUID(request.POST.get("organization", "")))
    except ValueError:
        found = None
    if found is None:
        messages.error(request, "You are not in that organization.")
        return redirect("organizations")
    return redirect("dashboard")


@require_safe
@login_required
def organization(request: HttpRequest) -> HttpResponse:
    """What there is and what runs now, as far as the person may see it."""
    found = enter_organization(request)
    counts = Organization.objects.values_list(_number(found.memberships.all()), _number(found.cloud_configs.live()))
    people, configs = counts.get(pk=found.pk)
    context = {
        "organization": found,
        "workspaces": found.workspaces.where(request.user, Can.SEE_WORKSPACE).live().order_by("name"),
        "people": people,
        "configs": configs,
        "running": holdings(found, seen_by=person(request)),
    }
    return render(request, "accounts/organization.html", context)


def _number(rows: QuerySet[Any]) -> Subquery:
    """How many they are, as a part of another question."""
    counted = Func(template="COUNT(*)", output_field=IntegerField())  # Count would group them
    return Subquery(rows.order_by().values_list(counted))


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def organization_settings(request: HttpRequest) -> HttpResponse:
    found = enter_organization(request, Can.MANAGE_ORGANIZATION)
    saved = {"name": found.name, "second_factor_required": found.second_factor_required}
    form = OrganizationSettingsForm(request.POST or None, initial=saved)
    if request.method == "POST" and form.is_valid():
        change_organization(found, **form.cleaned_data, by=person(request))
        messages.success(request, f"The settings of {found.name} are saved.")
        return redirect("organization-settings")
    return render(request, "accounts/organization_settings.html", {"organization": found, "form": form})


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def remove_organization(request: HttpRequest) -> HttpResponse:
    """GET says what stands in the way or what goes; POST does it."""
    found = enter_organization(request, Can.MANAGE_ORGANIZATION)
    form = ConfirmDeleteForm(request.POST or None, expected=found.name)
    if request.method == "POST" and form.is_valid():
        confirm(request)
        with refusals_in(form):
            delete_organization(found, by=person(request))
            messages.success(request, f"{found.name} is deleted.")
            return redirect("organizations")
    context = {
        "organization": found,
        "form": form,
        "reasons": why_not_deletable(found),
        "configs": found.cloud_configs.live().order_by("name"),
    }
    return render(request, "accounts/organization_delete.html", context)
