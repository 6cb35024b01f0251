"""What a portal has made, in the store of the account that it was made in: for the account's owner.

A document is written before anything is made, and taken away when nothing is left. With it and the tags, the owner
finds what there is even where the portal's database is gone. Nothing secret is in it.
"""

from __future__ import annotations

import json
from typing import Any

from django.utils.timezone import now

from portal.clouds import Lock, Store
from portal.models import installation
from portal.tasks import locks
from portal.tasks.ledger import Work

_SECONDS = 60.0  # that a portal may take to write one


def write(work: Work, **about: Any) -> None:
    """Raises `NotAlone` while somebody else writes it."""
    subject = work.subject
    workspace = subject.workspace
    document = {
        "portal": installation(),
        "organization": str(workspace.organization.uuid),
        "workspace": str(workspace.uuid),
        "region": workspace.region,
        "kind": subject._meta.model_name,
        "uuid": str(subject.uuid),
        "name": str(subject),
        **about,
        "task": str(work.task.uuid),
        "written": now().isoformat(timespec="seconds"),
    }
    store, lock = _locked(work)
    store.put(lock.name, json.dumps(document, indent=1).encode(), lock=lock)
    store.release(lock)
    work.log(f"{lock.name} in the cloud configuration's store says what is made.")


def remove(work: Work) -> None:
    """Raises `NotAlone` while somebody else writes it."""
    store, lock = _locked(work)
    store.delete(lock.name, lock=lock)


def _locked(work: Work) -> tuple[Store, Lock]:
    subject = work.subject
    store: Store = subject.workspace.cloud_config.account.store
    name = f"deployments/{subject.workspace.uuid}/{subject.uuid}.json"
    return store, locks.take(store, name, work.task, _SECONDS)
