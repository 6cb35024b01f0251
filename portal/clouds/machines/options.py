"""What is decided of own machines in a cloud configuration. All the rest of them are rows."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class MachinesOptions:
    account: UUID  # of the cloud configuration, by which its pools are found
