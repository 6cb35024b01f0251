"""What a portal has made, in the store of the account that it was made in: for the account's owner.

A document is written before anything is made, and taken away when nothing is left. With it and the tags, the owner
finds what there is even where the portal's database is gone. Nothing secret is in it.
"""

from __future__ import annotations

import json
from typing import Any

from django.utils.timezone import now

from portal.clouds import Store
from portal.errors import Passing
from portal.models import installation
from portal.tasks.ledger import Work
from portal.tasks.subjects import Subject

_SECONDS = 60.0  # that a portal may take to write one


def _name(subject: Subject) -> str:
    return f"deployments/{subject.workspace.uuid}/{subject.uuid}.json"


def _store(subject: Subject) -> Store:
    store: Store = subject.workspace.cloud_config.account.store
    return store


def write(work: Work, **about: Any) -> None:
    """Raises `Passing` while another portal writes it."""
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
    store, name = _store(subject), _name(subject)
    lock = store.lock(name, owner=f"{installation()}/{work.task.uuid}", seconds=_SECONDS)
    if lock is None:
        raise Passing("Another portal works on this just now.", evidence=name)
    store.put(name, json.dumps(document, indent=1).encode(), lock=lock)
    store.release(lock)
    work.log(f"{name} in the cloud configuration's store says what is made.")


def remove(work: Work) -> None:
    _store(work.subject).delete(_name(work.subject))
