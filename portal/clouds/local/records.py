"""What lies on disk: one record a cluster, one folder a node.

The record is written first and removed last, so whatever a crash leaves is found from it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from portal.clouds.local.kernel import is_locked
from portal.clouds.local.limits import groups_of
from portal.clouds.local.processes import ClusterProcesses, Process, look, mark_of, of_cluster
from portal.clouds.types import Tags

NAMESPACES = "namespaces"
LANDLOCK = "landlock"
PLAIN = "plain"

__all__ = [
    "LANDLOCK",
    "NAMESPACES",
    "PLAIN",
    "ClusterFolder",
    "ClusterRecord",
    "NodeFolder",
    "WorkspaceFolder",
    "read_json",
    "replace",
    "write_atomically",
    "write_in_place",
]


def write_atomically(path: Path, text: str | bytes, *, only_new: bool = False, mode: int = 0o600) -> bool:
    """Write the file whole or not at all. With `only_new` the first of two wins, and False says that it was not us."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        if not only_new:
            os.replace(name, path)
            return True
        try:
            os.link(name, path)
        except FileExistsError:
            return False
        return True
    finally:
        Path(name).unlink(missing_ok=True)


def write_in_place(path: Path, text: str) -> None:
    """For a file that others have mounted, and that grows: they read the old text or all of the new one."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.pwrite(descriptor, data := text.encode(), 0)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class ClusterRecord:
    tags: Tags
    name: str
    instance_type: str
    memory: int  # bytes a node
    nodes: int  # the most that were ever asked for: so many names are known
    network: int  # the C of 127.77.C.I
    port: int
    authorized_keys: tuple[str, ...]
    deleting: bool = False
    stopped: float = 0.0  # when it was told to stop, in seconds of Unix; 0: it is to run
    rung: str = ""  # how its first nodes were made, and so all later ones: paths on a node depend on it

    @classmethod
    def read(cls, path: Path) -> ClusterRecord | None:
        value = read_json(path)
        if value is None:
            return None
        value["tags"] = Tags(**value["tags"])
        value["authorized_keys"] = tuple(value["authorized_keys"])
        if value["rung"] == "uts":  # of before there were limits to what a node sees
            value["rung"] = NAMESPACES
        return cls(**value)

    def write(self, path: Path, *, only_new: bool = False) -> bool:
        return write_atomically(path, json.dumps(asdict(self), indent=1), only_new=only_new)

    def hostname(self, rank: int) -> str:
        return f"{self.name}-{rank}"

    def address(self, rank: int) -> str:
        return f"127.77.{self.network}.{rank + 1}"


@dataclass(frozen=True)
class WorkspaceFolder:
    path: Path

    @property
    def shared(self) -> Path:
        return self.path / "shared"

    @property
    def network(self) -> Path:
        return self.path / "network.json"

    @property
    def filesystem(self) -> Path:
        return self.path / "filesystem.json"

    @property
    def identity(self) -> Path:
        return self.path / "identity.json"

    def cluster(self, subject: str) -> ClusterFolder:
        return ClusterFolder(self.path / subject)

    def clusters(self) -> list[ClusterFolder]:
        ours = {"network.json", "filesystem.json", "identity.json"}
        found = sorted(p for p in self.path.glob("*.json") if p.name not in ours and not p.name.startswith("."))
        return [ClusterFolder(path.with_suffix("")) for path in found]


@dataclass(frozen=True)
class ClusterFolder:
    path: Path

    @property
    def record(self) -> Path:
        """Beside the folder, so that there is never a folder without its record."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def shared(self) -> Path:
        return self.path.parent / "shared"

    @property
    def hosts(self) -> Path:
        """/etc/hosts of all its nodes. Those that run see what is added to it."""
        return self.path / "hosts"

    def node(self, rank: int) -> NodeFolder:
        return NodeFolder(self.path / str(rank), rank)

    def nodes(self) -> list[NodeFolder]:
        try:
            names = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self.node(rank) for rank in sorted(int(name) for name in names if name.isdecimal())]

    def groups(self) -> set[Path]:
        """The memory groups of its nodes that exist."""
        written = {Path(group) for node in self.nodes() if (state := node.state()) for group in state.groups}
        return {group for group in written if group.exists()} | set(groups_of(mark_of(self.path)))

    def processes(self) -> ClusterProcesses:
        return of_cluster(self.path, self.groups())


@dataclass(frozen=True)
class NodeState:
    """What the keeper of a node wrote of it. It may be long dead."""

    rung: str
    keeper: Process
    first: Process  # PID 1 of the node; without namespaces, the parent of all that runs on it
    ready: bool
    groups: tuple[str, ...]  # that limit it
    refuses: str = ""  # why no new run may start here; empty when it may

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> NodeState:
        keeper, first = (Process(value[k]["pid"], 0, value[k]["started"]) for k in ("keeper", "first"))
        groups = tuple(value.get("groups", ()))
        return cls(value["rung"], keeper, first, value["ready"], groups, value.get("refuses", ""))

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @property
    def alive(self) -> bool:
        return self.keeper.alive and self.first.alive


@dataclass(frozen=True)
class NodeFolder:
    path: Path
    rank: int

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def bin(self) -> Path:
        return self.path / "bin"

    @property
    def root(self) -> Path:
        """Where the node's new root is put together; empty when seen from outside."""
        return self.path / "root"

    @property
    def door(self) -> Path:
        """The socket by which the portal comes in."""
        return self.path / "door"

    @property
    def host_key(self) -> Path:
        return self.path / "host_key"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def lock(self) -> Path:
        """Held by the node's own processes as long as one of them lives. The kernel lets it go."""
        return self.path / "lock"

    @property
    def going(self) -> Path:
        """There from when the node was told to go until it is gone: nobody starts it any more."""
        return self.path / "going"

    @property
    def switched_off(self) -> Path:
        """Touched when the node is switched off in order."""
        return self.path / "switched-off"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    def state(self) -> NodeState | None:
        value = read_json(self.state_file)
        return None if value is None else NodeState.of(value)

    @property
    def taken(self) -> bool:
        """Somebody is or becomes this node."""
        return is_locked(self.lock)


def process_now(pid: int) -> Process:
    found = look(pid)
    return found if found is not None else Process(pid, 0, 0)
