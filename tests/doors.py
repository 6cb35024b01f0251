"""The access matrix: each address of the portal, and who gets in by GET and by POST.

`bin/python --test -m tests.doors` prints it as the page docs/access.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# name: who that is. All but charlie, sam and ivy belong to the organization that the rows are about.
CAST = {
    "nobody": "not signed in",
    "charlie": "admin of another organization",
    "ivy": "invited, not accepted",
    "sam": "staff without an organization",
    "lola": "workspace admin, locked",
    "mina": "member without a role",
    "vera": "workspace viewer",
    "bob": "workspace user",
    "wanda": "workspace admin",
    "olga": "organization admin",
}
EVERYBODY = frozenset(CAST)
SIGNED_IN = EVERYBODY - {"nobody", "lola"}
MEMBERS = SIGNED_IN - {"ivy", "sam"}  # of some organization: a page without an id is about their own
ADMINS = frozenset({"olga", "charlie"})  # each of their own organization
INSIDE = frozenset({"vera", "bob", "wanda"})
RUNNERS = frozenset({"bob", "wanda"})
WORKSPACE_ADMINS = frozenset({"wanda"})
ORGANIZATION_ADMINS = frozenset({"olga"})
MANAGERS = WORKSPACE_ADMINS | ORGANIZATION_ADMINS
SEE = INSIDE | ORGANIZATION_ADMINS  # that the workspace exists
NONE = None  # the method is not allowed


@dataclass(frozen=True)
class Row:
    about: str | None  # what the id in the address is of
    get: frozenset[str] | None
    post: frozenset[str] | None = NONE


ROWS = {
    "healthz": Row(None, EVERYBODY, EVERYBODY),
    "readyz": Row(None, EVERYBODY, EVERYBODY),
    "aws-guide": Row(None, SIGNED_IN),
    "dashboard": Row(None, MEMBERS),
    "all-runs": Row(None, MEMBERS),
    "go-to": Row(None, SIGNED_IN),
    "workspaces": Row(None, MEMBERS),
    "cloud-configs": Row(None, ADMINS),
    "new-cloud-config": Row(None, ADMINS, ADMINS),
    "cloud-config": Row("cloud config", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "check-cloud-config": Row("cloud config", NONE, ORGANIZATION_ADMINS),
    "delete-cloud-config": Row("cloud config", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "connect-aws": Row("aws config", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "aws-template": Row("aws config", ORGANIZATION_ADMINS),
    "new-pool": Row("own machines", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "pool": Row("pool", ORGANIZATION_ADMINS),
    "add-computers": Row("pool", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "confirm-keys": Row("pool", NONE, ORGANIZATION_ADMINS),
    "check-pool": Row("pool", NONE, ORGANIZATION_ADMINS),
    "delete-pool": Row("pool", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "computer": Row("computer", ORGANIZATION_ADMINS),
    "check-computer": Row("computer", NONE, ORGANIZATION_ADMINS),
    "accept-key": Row("computer", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "disable-computer": Row("computer", NONE, ORGANIZATION_ADMINS),
    "enable-computer": Row("computer", NONE, ORGANIZATION_ADMINS),
    "remove-computer": Row("computer", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "stray": Row("stray", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "adopt-stray": Row("stray", NONE, ORGANIZATION_ADMINS),
    "new-workspace": Row(None, ADMINS, ADMINS),
    "profile": Row(None, SIGNED_IN, SIGNED_IN),
    "profile-data": Row(None, SIGNED_IN),
    "delete-profile": Row(None, SIGNED_IN, SIGNED_IN),
    "organizations": Row(None, SIGNED_IN),
    "new-organization": Row(None, SIGNED_IN, SIGNED_IN),
    "switch-organization": Row(None, NONE, SIGNED_IN),
    "organization": Row(None, MEMBERS),
    "organization-settings": Row(None, ADMINS, ADMINS),
    "leave-organization": Row(None, MEMBERS, MEMBERS),
    "delete-organization": Row(None, ADMINS, ADMINS),
    "tokens": Row(None, ADMINS),
    "new-token": Row(None, ADMINS, ADMINS),
    "workspace-tokens": Row("workspace", MANAGERS),
    "new-workspace-token": Row("workspace", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "revoke-token": Row("token", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "audit": Row(None, ADMINS),
    "audit-csv": Row(None, ADMINS),
    "people": Row(None, ADMINS, ADMINS),
    "person": Row("person", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "unlock-person": Row("person", NONE, ORGANIZATION_ADMINS),
    "remove-person": Row("person", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "resend-invitation": Row("invitation", NONE, MANAGERS),
    "withdraw-invitation": Row("invitation", NONE, MANAGERS),
    "workspace": Row("workspace", SEE),
    "workspace-people": Row("workspace", SEE, MANAGERS),
    "change-workspace-person": Row("workspace", NONE, MANAGERS),
    "remove-workspace-person": Row("workspace", MANAGERS, MANAGERS),
    "workspace-settings": Row("workspace", SEE, MANAGERS),
    "new-git-credential": Row("workspace", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "replace-git-credential": Row("git credential", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "delete-git-credential": Row("git credential", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "update-workspace": Row("workspace", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "delete-workspace": Row("workspace", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "forget-workspace": Row("workspace", ORGANIZATION_ADMINS, ORGANIZATION_ADMINS),
    "clusters": Row("workspace", INSIDE),
    "new-cluster": Row("workspace", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "change-clusters": Row("workspace", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "workspace-dashboard": Row("workspace", INSIDE),
    "jobs": Row("workspace", INSIDE),
    "runs": Row("workspace", INSIDE),
    "change-runs": Row("workspace", RUNNERS, RUNNERS),
    "new-job": Row("workspace", RUNNERS, RUNNERS),
    "workspace-usage": Row("workspace", INSIDE),
    "workspace-usage-csv": Row("workspace", INSIDE),
    "organization-usage": Row(None, ADMINS),
    "organization-usage-csv": Row(None, ADMINS),
    "cluster": Row("cluster", INSIDE),
    "repair-cluster": Row("cluster", NONE, WORKSPACE_ADMINS),
    "keep-cluster": Row("cluster", NONE, WORKSPACE_ADMINS),
    "pause-cluster": Row("cluster", NONE, WORKSPACE_ADMINS),
    "resume-cluster": Row("cluster", NONE, WORKSPACE_ADMINS),
    "stop-cluster": Row("cluster", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "start-cluster": Row("cluster", NONE, WORKSPACE_ADMINS),
    "restart-cluster": Row("cluster", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "scale-cluster": Row("cluster", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "edit-cluster": Row("cluster", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "forget-cluster": Row("cluster", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "auto-repair": Row("cluster", NONE, WORKSPACE_ADMINS),
    "snooze-cluster": Row("cluster", NONE, RUNNERS),
    "terminal": Row("cluster", RUNNERS),
    "cluster-key": Row("cluster", NONE, RUNNERS),
    "refresh-hostfile": Row("cluster", NONE, RUNNERS),
    "delete-cluster": Row("cluster", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "instance-roles": Row("aws workspace", INSIDE),
    "new-instance-role": Row("aws workspace", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "instance-role": Row("instancerole", INSIDE),
    "validate-instance-role": Row("instancerole", NONE, WORKSPACE_ADMINS),
    "remove-instance-role": Row("instancerole", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "forget-instance-role": Row("instancerole", NONE, WORKSPACE_ADMINS),
    "job": Row("job", INSIDE),
    "edit-job": Row("job", RUNNERS, RUNNERS),
    "delete-job": Row("job", RUNNERS, RUNNERS),
    "move-job": Row("job", NONE, RUNNERS),
    "run-job-with-changes": Row("job", RUNNERS, RUNNERS),
    "job-credential": Row("job", RUNNERS, RUNNERS),
    "run-job": Row("job", NONE, RUNNERS),
    "job-mail": Row("job", NONE, RUNNERS),
    "templates": Row("workspace", INSIDE),
    "new-template": Row("workspace", RUNNERS, RUNNERS),
    "template-of-job": Row("job", RUNNERS, RUNNERS),
    "template": Row("template", INSIDE, RUNNERS),
    "edit-template": Row("template", RUNNERS, RUNNERS),
    "delete-template": Row("template", RUNNERS, RUNNERS),
    "new-schedule": Row("job", RUNNERS, RUNNERS),
    "schedule": Row("schedule", INSIDE),
    "edit-schedule": Row("schedule", RUNNERS, RUNNERS),
    "turn-schedule": Row("schedule", NONE, RUNNERS),
    "run-schedule": Row("schedule", NONE, RUNNERS),
    "delete-schedule": Row("schedule", RUNNERS, RUNNERS),
    "excluded-days": Row("workspace", INSIDE, RUNNERS),
    "run": Row("run", INSIDE),
    "run-state": Row("run", INSIDE),
    "compare-runs": Row("run", INSIDE),
    "notebook": Row("run", INSIDE),
    "notebook-file": Row("run", INSIDE),
    "repeat-run": Row("run", NONE, RUNNERS),
    "dismiss-run": Row("run", NONE, RUNNERS),
    "run-with-changes": Row("run", RUNNERS, RUNNERS),
    "cancel-run": Row("run", RUNNERS, RUNNERS),
    "task": Row("task", INSIDE),
    "cancel-task": Row("task", WORKSPACE_ADMINS, WORKSPACE_ADMINS),
    "retry-task": Row("task", NONE, WORKSPACE_ADMINS),
    "output": Row("output", INSIDE),
    "output-frame": Row("output", INSIDE),
    "output-reach": Row("output", INSIDE),
    "output-nodes": Row("output", INSIDE),
    "output-activity": Row("output", INSIDE),
    "output-search": Row("output", INSIDE),
    "output-download": Row("output", INSIDE),
}
SIGNED_OUT, FORBIDDEN, GONE = 4401, 4403, 4404  # codes with which a socket is closed
# What a page may watch through the socket /live/: a kind of thing, and who hears of it.
LIVE = {
    "organization": MEMBERS - {"charlie"},
    "workspace": SEE,
    "cluster": INSIDE,
    "stray": ORGANIZATION_ADMINS,
    "instancerole": INSIDE,
    "run": INSIDE,
    "task": INSIDE,
    "output": INSIDE,
}
# Whose tests are elsewhere: pages of allauth and of staff, the examples (public), links that are secrets themselves.
ELSEWHERE = (
    "account_",
    "admin:",
    "mfa_",
    "usersessions_",
    "socialaccount_",
    "openid_connect_",
    "example-file",
    "first-administrator",
    "invitation",
)


def named(patterns: Any, prefix: str = "", space: str = "") -> Iterator[tuple[str, str]]:
    """The name and address of each pattern, those of included ones too; a namespace stands before its names."""
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            inner = f"{space}{pattern.namespace}:" if pattern.namespace else space
            yield from named(pattern.url_patterns, prefix + str(pattern.pattern), inner)
        else:
            yield f"{space}{pattern.name or ''}", prefix + str(pattern.pattern)


def knows(who: str, about: str | None) -> bool:
    """Whether this exists for them: to others the answer is that of an id that was never given."""
    match about:
        case None:
            return True
        case "person" | "token":  # pages of the organization
            return who in MEMBERS - {"charlie"}
        case "invitation":
            return who in MANAGERS
        case "cloud config" | "aws config" | "stray" | "own machines" | "pool" | "computer":
            return who in ORGANIZATION_ADMINS
        case "workspace" | "aws workspace":
            return who in SEE
        case _:
            return who in INSIDE


def status(name: str, who: str, method: str) -> set[int]:
    """What this person is answered."""
    row = ROWS[name]
    may = row.get if method == "get" else row.post
    if who == "lola":
        return {403}  # the words of the lock-out, whatever was asked for
    if row.get is EVERYBODY:
        return {200, 503}
    if may is None:
        return {405} if who != "nobody" else {405, 302}
    if who == "nobody":
        return {302}
    if who in may:
        return {200, 302}
    if who not in MEMBERS and row.about in {None, "person"}:
        return {302}  # to the page that says what somebody in no organization can do
    return {403} if knows(who, row.about) else {404}


def closed_with(kind: str, who: str) -> int | None:
    """With what code the socket of this person is closed who wants to hear of such a thing. None: they hear."""
    if who not in SIGNED_IN:
        return SIGNED_OUT
    return None if who in LIVE[kind] else GONE


def terminal_closed_with(who: str) -> int | None:
    """The same of the socket of a terminal, /terminal/CLUSTER/RANK/, when this person opens one."""
    if who not in SIGNED_IN:
        return SIGNED_OUT
    if who in RUNNERS:
        return None
    return FORBIDDEN if who in INSIDE else GONE


def as_page() -> str:
    """The matrix as Markdown: for each address and method, who gets in."""
    names = list(CAST)
    lines = [
        "# Who gets in where",
        "",
        "Generated by `bin/python --test -m tests.doors`; tests/test_doors.py tries each cell. A number is",
        "the HTTP status of the answer. 404 says the same as for an id that was never given; 405, that the method",
        "does nothing there. Staff have Django admin for their work; being staff puts them in no organization.",
        "",
        *(f"- **{name}**: {who}" for name, who in CAST.items()),
        "",
        f"| address | | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    from django.urls import get_resolver

    addresses = dict(named(get_resolver().url_patterns))
    for name, row in ROWS.items():
        for method in ("get", "post"):
            if (row.get if method == "get" else row.post) is None:
                continue
            cells = [
                "yes" if 200 in status(name, who, method) else str(min(status(name, who, method))) for who in names
            ]
            lines.append(f"| `/{addresses[name]}` | {method.upper()} | {' | '.join(cells)} |")
    lines += [
        "",
        "## What a live page hears",
        "",
        "A page asks the socket `/live/` for news of what it shows. The socket of others is closed: 4401 says to sign",
        "in, 4404 the same as for an id that was never given. A socket from another site is refused.",
        "",
        f"| of | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for kind in LIVE:
        lines.append(f"| {kind} | {' | '.join(str(closed_with(kind, who) or 'yes') for who in names)} |")
    cells = [str(terminal_closed_with(who) or "yes") for who in names]
    lines += [
        "",
        "## Who opens a terminal",
        "",
        "The page of a terminal opens `/terminal/CLUSTER/RANK/`. It is asked again every three seconds while one is",
        "open; another session, and another person, do not come back to it. 4403: who may only look.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        f"| a terminal | {' | '.join(cells)} |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()
    print(as_page(), end="")
