"""What is decided of nodes on this computer, by whoever runs the portal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ISOLATED = "isolated"
HOST = "host"


@dataclass(frozen=True)
class LocalOptions:
    root: Path = Path()  # the folder in which everything of the nodes lies
    store: Path = Path()  # and that of the account's store
    hidden: tuple[str, ...] = ()  # paths that no node may see, wherever they lie
    shown: tuple[str, ...] = ()  # further files and folders of this computer, for all nodes to read
    rung: str = ""  # how nodes are made; empty: the best that the kernel grants, and never `plain`
    strangers: bool = False  # whether people that nobody here knows may run programs; then there is no `plain`
    network: str = ISOLATED  # or HOST
    portal: str = ""  # the portal's address, of which nodes reach the examples
    git_here: bool = False  # whether git on nodes may ask servers on this computer
    addresses: tuple[str, ...] = ()  # host:port that nodes reach wherever it is
    neighbours: bool = True  # whether nodes reach private networks
    temporary_mib: int = 0  # of /tmp, and of /dev/shm; 0: a quarter of the node's memory
    processes: int = 4096  # of a node, at once
    free_mib: int = 2048  # below so much free disk, and …
    free_percent: int = 5  # … below such a part of it, runs are ended; below twice that none starts

    @property
    def in_words(self) -> list[tuple[str, str]]:
        """What people of an organization may know: no paths of this computer."""
        ways = {"": "in namespaces, or by the best way that the kernel grants", "plain": "as mere processes"}
        network = "isolated; the only way out is an HTTP proxy" if self.network == ISOLATED else "that of this computer"
        size = f"{self.temporary_mib:,} MiB" if self.temporary_mib else "a quarter of the node's memory"
        return [
            ("Nodes are made", ways.get(self.rung, f"in {self.rung}")),
            ("Their network", network),
            ("Private networks", "reached" if self.neighbours else "not reached"),
            ("Size of /tmp", size),
            ("Processes of a node", f"{self.processes:,} at most"),
            ("Runs end", f"below {self.free_mib:,} MiB and {self.free_percent}% of free disk"),
        ]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> LocalOptions:
        """From a mapping, in which what is not an option is passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        plain: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in value.items() if name in names
        }
        return cls(**plain | {name: Path(plain[name]) for name in ("root", "store") if name in plain})
