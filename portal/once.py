"""What a form makes once, however often it is sent: its uuid travels with the form."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django.db.models import Model


def uuid_for(model: type[Model], uuid: UUID | None, **place: Any) -> UUID:
    """For a row that is made in this place. Where a row elsewhere has this one, it is another one."""
    if uuid is None or model._default_manager.filter(uuid=uuid).exclude(**place).exists():
        return uuid4()
    return uuid
