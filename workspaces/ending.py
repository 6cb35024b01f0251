"""What of a workspace is secret, and gone with it. The apps above tell what they keep, in `ready` of `apps.py`."""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction
from django.db.models.functions import Now

from portal.errors import PortalError
from workspaces.models import GitCredential, Workspace

# In the order in which rows are locked, see `portal.tasks.ledger`. What they keep is empty in the database afterwards.
forgetters: list[Callable[[Workspace], None]] = []


@transaction.atomic
def forget_secrets(workspace: Workspace) -> None:
    """Of one that is never to be READY again. What there is to read of it stays. May be called again."""
    for forget in forgetters:
        forget(workspace)


def forget_own(workspace: Workspace) -> None:
    """The portal's key, and what was saved for Git servers: that is deleted, as by a person."""
    workspace.forget_login_key()
    GitCredential.objects.live().filter(workspace=workspace).update(secret="", deleted=Now())


def hold(workspace: Workspace) -> None:
    """For whoever has something secret kept in it: who has it forgotten waits until we have ended.

    Raises `PortalError` where that is so already.
    """
    found = Workspace.objects.select_for_update(of=("self",), no_key=True).get(pk=workspace.pk)
    if found.is_ending:
        raise PortalError(f"{found} is {found.badge.word}: nothing secret is kept in it any more.")
