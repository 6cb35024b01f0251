"""Go to…: what a person may see, found by its name. One address, a page of its own and the dialog of Ctrl K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from accounts.access import Can, may
from accounts.place import enter_if_any
from clusters.models import Cluster
from jobs.models import Job
from workspaces.models import CloudConfig, Workspace

MOST = 6  # of each kind; who finds more writes more of the name


@dataclass(frozen=True)
class Found:
    icon: str
    name: str
    about: str  # what it is, and where
    address: str


# The pages of an organization and of a person: icon, name, address, and the right that leads there.
PAGES: list[tuple[str, str, str, Can | None]] = [
    ("speedometer2", "Dashboard", "dashboard", Can.SEE_ORGANIZATION),
    ("box", "Workspaces", "workspaces", Can.SEE_ORGANIZATION),
    ("cloud", "Cloud configurations", "cloud-configs", Can.MANAGE_ORGANIZATION),
    ("buildings", "Organization", "organization", Can.SEE_ORGANIZATION),
    ("people", "People and roles", "people", Can.INVITE),
    ("bar-chart", "Usage", "organization-usage", Can.MANAGE_ORGANIZATION),
    ("key", "API tokens", "tokens", Can.MANAGE_ORGANIZATION),
    ("clock-history", "Audit", "audit", Can.READ_AUDIT),
    ("sliders", "Settings of the organization", "organization-settings", Can.MANAGE_ORGANIZATION),
    ("grid", "All organizations", "organizations", None),
    ("person-vcard", "Profile", "profile", None),
    ("shield-lock", "Security", "mfa_index", None),
    ("laptop", "Sessions", "usersessions_list", None),
]


def pages(request: HttpRequest, words: str) -> list[Found]:
    return [
        Found(icon, name, "page", reverse(address))
        for icon, name, address, can in PAGES
        if words.lower() in name.lower() and (can is None or may(request, can))
    ]


def things(user: Any, words: str) -> list[Found]:
    """Workspaces, clusters, jobs and cloud configurations with these words in their name, the newest first."""
    workspaces = Workspace.objects.where(user, Can.SEE_WORKSPACE).live().select_related("organization")
    clusters = Cluster.objects.where(user, Can.VIEW).live().select_related("workspace")
    jobs = Job.objects.where(user, Can.VIEW).live().exclude(workspace__status=Workspace.Status.TERMINATED)
    configs = CloudConfig.objects.where(user, Can.MANAGE_ORGANIZATION).live().select_related("organization")
    kinds: list[tuple[str, str, Any, str]] = [
        ("box", "workspace in", workspaces, "organization"),
        ("hdd-stack", "cluster in", clusters, "workspace"),
        ("list-check", "job in", jobs.select_related("workspace"), "workspace"),
        ("cloud", "cloud configuration of", configs, "organization"),
    ]
    return [
        Found(icon, row.name, f"{about} {getattr(row, place)}", row.get_absolute_url())
        for icon, about, rows, place in kinds
        for row in rows.filter(name__icontains=words).order_by("-pk")[:MOST]
    ]


@require_safe
@login_required
def go_to(request: HttpRequest) -> HttpResponse:
    """`?q=` is looked for in names; without it, pages and what was made last are offered."""
    enter_if_any(request)
    words = request.GET.get("q", "").replace("\0", "").strip()[:80]
    found = [*things(request.user, words), *pages(request, words)] if words else pages(request, words)
    part = "goto.html#found" if request.headers.get("HX-Target") == "go-found" else "goto.html"
    return render(request, part, {"found": found, "words": words})
