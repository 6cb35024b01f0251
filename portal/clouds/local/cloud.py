"""`LocalCloud`: what the portal asks of this computer as a cloud.

A node is an SSH server in a world of its own, made by the best way, or rung, that the kernel grants: `namespaces`,
where it sees little of this computer and reaches nothing of it; `landlock`, where it may open little of it; or `plain`,
a mere process with an address of its own, where an administrator says so. All that exists lies in one folder and in the
list of processes; nothing is remembered elsewhere, so any process of the portal may call any method at any time.

    ROOT/WORKSPACE/network.json, filesystem.json     records; identity.json: who its programs are on this computer
    ROOT/WORKSPACE/shared/                           the shared filesystem
    ROOT/WORKSPACE/CLUSTER.json                      what was asked for; written first, removed last
    ROOT/WORKSPACE/CLUSTER/RANK/                     home, tmp, door, host key, lock, state and log of a node
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from portal.clouds.local import identity, kernel, limits, packages, processes, shims, view
from portal.clouds.local.node import Answer, Order, account
from portal.clouds.local.options import HOST, ISOLATED, LocalOptions
from portal.clouds.local.records import (
    LANDLOCK,
    NAMESPACES,
    PLAIN,
    ClusterFolder,
    ClusterRecord,
    NodeFolder,
    WorkspaceFolder,
    read_json,
    write_atomically,
    write_in_place,
)
from portal.clouds.local.records import NodeState as WrittenState
from portal.clouds.local.sessions import GOODBYE
from portal.clouds.local.sizes import MOST_NODES, cores, instance_types
from portal.clouds.local.trouble import told
from portal.clouds.market import Market, Running
from portal.clouds.types import (
    Can,
    CloudKind,
    CloudNode,
    InstanceType,
    NodesSpec,
    NodeState,
    Offer,
    Quota,
    Resource,
    Tags,
    WorkspaceSpec,
    Zone,
    not_here,
)
from portal.errors import Passing, Pending, PortalError, Refused

__all__ = ["LocalCloud"]

_COMPUTER = "This computer"
_PORTS = range(2222, 2227)  # the first, unless a server of this computer listens on it at all addresses
_GRACE = GOODBYE + 2  # seconds from TERM to KILL for nodes that are told to stop
_CONSOLE = 8 << 10  # bytes of what a node said
_ASIDE = ".removed-"  # what folders are called that are being removed
_NEVER = datetime.fromtimestamp(0, UTC)
_PATIENCE = 30.0  # seconds for the launcher; it usually needs 0.15

_PERSONS = "People of one workspace are not kept apart on its nodes."
_WITHOUT = "The only way out of them is an HTTP proxy; there is no sudo, and /tmp is small."
NOTES = {
    NAMESPACES: f"{_PERSONS} {_WITHOUT}",
    LANDLOCK: "Limited isolation: runs reach this computer's services, and hostnames are simulated. " + _PERSONS,
    PLAIN: "Hostnames are simulated and isolation is off: runs may do what the portal may.",
}
_NETWORK_OF_HOST = f"Runs reach this computer's services. {_PERSONS}"


class LocalCloud:
    kind = CloudKind.LOCAL
    can = frozenset({Can.MAKE, Can.NETWORK, Can.FILESYSTEM, Can.STORE, Can.PAUSE, Can.SCALE})
    look_in = 0.3

    def __init__(
        self,
        root: Path,
        *,
        hidden: Sequence[Path] = (),
        rung: str | None = None,
        options: LocalOptions | None = None,
    ) -> None:
        """`hidden` are the paths that no node may see; `rung` forces a way to make nodes."""
        self.root = Path(os.path.abspath(root))
        chosen = options or LocalOptions()
        checkout = Path(__file__).resolve().parents[3]
        never = [self.root, *(Path(os.path.abspath(str(path))) for path in (*hidden, *chosen.hidden)), checkout]
        if sys.prefix != sys.base_prefix:
            never.append(Path(sys.prefix).resolve())
        self.hidden = tuple(never)
        self.options = replace(chosen, hidden=tuple(map(str, never)))
        self._rung = rung or chosen.rung or os.environ.get("PORTAL_LOCAL_RUNG") or ""
        if self._rung == "uts":  # as it was called
            self._rung = NAMESPACES

    # -- what there is

    def rung(self) -> tuple[str, str]:
        """How nodes are made here, and what the kernel refused if it is not the best way."""
        with told():
            self._require_linux()
            self._make_root()
            answer = self._launch(self.root, [], self._rung)
            return answer.rung, answer.why

    def zones(self) -> list[Zone]:
        raise not_here(Can.ZONE, _COMPUTER)

    def offer(self, instance_type: str, nodes: int, *, zone: str = "", spot: bool = False) -> Offer:
        """Counts the clusters of this cloud alone; those of other configurations are on the same computer."""
        with told():
            _refuse_what_is_not_here(zone=zone, spot=spot)
            kinds = {kind.name: kind for kind in instance_types()}
            if instance_type not in kinds:
                return Offer(None, impossible=f"This computer has no instance type {instance_type!r}.")
            if not 1 <= nodes <= MOST_NODES:
                return Offer(None, impossible=f"A cluster on this computer has 1 to {MOST_NODES} nodes, not {nodes}.")
            there = [(record, cluster) for cluster, record in self._records() if record.instance_type in kinds]
            taken = sum(kinds[record.instance_type].cores * len(cluster.nodes()) for record, cluster in there)
            quota = Quota("cores", kinds[instance_type].cores * nodes, max(0, cores() - taken))
            slow = "Ranks would take turns on a core: that is slow, and good enough to try a program."
            return Offer(None, (quota,), () if quota.is_enough else (slow,))

    # -- network and filesystem

    def market(self) -> Market:
        raise not_here(Can.PRICES, _COMPUTER)

    def running(self) -> Running:
        raise not_here(Can.PRICES, _COMPUTER)

    def ensure_network(self, spec: WorkspaceSpec, *, token: str = "") -> None:
        with told():
            _refuse_choices(spec)
            tags = spec.tags
            workspace = self._workspace(tags)
            self._make_workspace(workspace)
            _ensure_record(workspace.network, tags)

    def delete_network(self, tags: Tags, *, token: str = "") -> None:
        with told():
            workspace = self._workspace(tags)
            if _is_ours(workspace.network, tags):
                workspace.network.unlink(missing_ok=True)
            self._tidy(workspace)

    def ensure_filesystem(self, spec: WorkspaceSpec, *, token: str = "") -> None:
        with told():
            _refuse_choices(spec)
            tags = spec.tags
            workspace = self._workspace(tags)
            self._make_workspace(workspace)
            _ensure_record(workspace.filesystem, tags)
            workspace.shared.mkdir(mode=0o755, exist_ok=True)

    def delete_filesystem(self, tags: Tags, *, token: str = "") -> None:
        with told():
            workspace = self._workspace(tags)
            if not _is_ours(workspace.filesystem, tags):
                return
            if any(node.taken for cluster in workspace.clusters() for node in cluster.nodes()):
                raise Passing("The shared filesystem is still in use by nodes of its workspace.")
            # Moved first: removing may take a while, and no node shall start on half of it.
            with contextlib.suppress(FileNotFoundError):
                os.rename(workspace.shared, tempfile.mkdtemp(prefix=_ASIDE, dir=workspace.path))
            for folder in workspace.path.glob(f"{_ASIDE}*"):
                _remove(folder)
            workspace.filesystem.unlink(missing_ok=True)
            self._tidy(workspace)

    # -- nodes

    def ensure_nodes(self, spec: NodesSpec, *, token: str = "") -> Pending | None:
        with told():
            self._require_linux()
            _refuse_what_is_not_here(zone=spec.zone, spot=spec.spot, role=spec.role)
            kind = self._instance_type(spec)
            workspace = self._workspace(spec.tags)
            if not workspace.shared.is_dir():
                raise Refused("The workspace has no shared filesystem yet.", advice="Deploy the workspace first.")
            cluster = workspace.cluster(_name(spec.tags.subject))
            going = [cluster.node(rank) for rank in range(spec.nodes) if cluster.node(rank).going.exists()]
            if pending := self._still_stop(cluster) or self._remove_nodes(cluster, going):
                return pending
            record = self._agree(spec, kind, cluster)
            cluster.path.mkdir(mode=0o700, exist_ok=True)
            missing = [rank for rank in range(spec.nodes) if not _runs(cluster.node(rank))]
            for rank in missing:
                self._prepare(cluster.node(rank), spec)
            self._start(cluster, record, missing)
            return None

    def stop_nodes(self, tags: Tags, *, token: str = "") -> Pending | None:
        with told():
            cluster = self._workspace(tags).cluster(_name(tags.subject))
            record = ClusterRecord.read(cluster.record)
            if record is None or record.deleting or not _same(record.tags, tags):
                return None
            if not record.stopped:
                record = replace(record, stopped=time.time())  # from now on nobody starts a node of it
                record.write(cluster.record)
            for node in cluster.nodes():
                state = node.state()
                told_before = (_when(node.switched_off) or _NEVER).timestamp() >= record.stopped
                if node.taken and state is not None and not told_before:
                    node.switched_off.touch()
                    state.first.send(signal.SIGTERM)
            if time.time() - record.stopped > _GRACE:
                _end(cluster, time.monotonic() + 5)
            if pending := self._still_stop(cluster):
                return pending
            for process in cluster.processes().orphans:
                process.send(signal.SIGKILL)
            return None

    def nodes(self, tags: Tags) -> list[CloudNode]:
        with told():
            cluster = self._workspace(tags).cluster(_name(tags.subject))
            record = ClusterRecord.read(cluster.record)
            if record is None or not _same(record.tags, tags):
                return []
            return [self._seen(record, cluster, node) for node in cluster.nodes()]

    def inventory(self, portal: str) -> dict[Tags, list[CloudNode]]:
        with told():
            return {
                record.tags: [self._seen(record, cluster, node) for node in cluster.nodes()]
                for cluster, record in self._records()
                if record.tags.portal == portal
            }

    def owners(self, portal: str) -> set[Tags]:
        with told():
            found = {record.tags for _, record in self._records()}
            for workspace in self._workspaces():
                for path in (workspace.network, workspace.filesystem):
                    if (value := read_json(path)) is not None:
                        found.add(Tags(**value))
            return {tags for tags in found if tags.portal == portal}

    def delete_nodes(self, tags: Tags, ranks: Collection[int] | None = None, *, token: str = "") -> Pending | None:
        with told():
            workspace = self._workspace(tags)
            cluster = workspace.cluster(_name(tags.subject))
            record = ClusterRecord.read(cluster.record)
            if record is not None and not _same(record.tags, tags):
                return None
            if ranks is not None:
                return self._remove_nodes(cluster, [cluster.node(rank) for rank in sorted(set(ranks))])
            if record is not None and not record.deleting:
                replace(record, deleting=True).write(cluster.record)  # from now on nobody starts a node of it
            self._remove_cluster(cluster)
            self._tidy(workspace)
            return None

    def console(self, tags: Tags, rank: int) -> str:
        with told():
            cluster = self._workspace(tags).cluster(_name(tags.subject))
            record = ClusterRecord.read(cluster.record)
            if record is None or not _same(record.tags, tags):
                return ""
            with contextlib.suppress(FileNotFoundError), open(cluster.node(rank).log, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _CONSOLE))
                return file.read(_CONSOLE).decode(errors="replace")
            return ""

    def leftovers(self, tags: Tags) -> list[Resource]:
        with told():
            workspace = self._workspace(tags)
            if tags.subject == tags.workspace:
                return self._workspace_leftovers(workspace, tags)
            cluster = workspace.cluster(_name(tags.subject))
            record = ClusterRecord.read(cluster.record)
            if record is not None and not _same(record.tags, tags):
                return []
            found = [
                Resource("process", str(process.pid), f"of cluster {tags.subject}") for process in cluster.processes()
            ]
            found += [Resource("memory limit", str(group)) for group in sorted(cluster.groups())]
            if record is not None:
                found += [
                    Resource("address", f"{record.address(rank)}:{record.port}", record.hostname(rank))
                    for rank in range(record.nodes)
                    if record.rung != NAMESPACES and not _is_free(record.address(rank), record.port)
                ]
                found.append(Resource("record", str(cluster.record)))
            if cluster.path.exists():
                found.append(Resource("folder", str(cluster.path)))
            return found

    # -- the computer's own power switch

    def power_off(self) -> None:
        """End everything that runs, within 5 seconds. Homes and filesystems stay, and what should run is known."""
        with told():
            clusters = [cluster for workspace in self._workspaces() for cluster in workspace.clusters()]
            for cluster in clusters:
                for node in cluster.nodes():
                    state = node.state()
                    if node.taken and state is not None and state.alive:
                        node.switched_off.touch()
                        state.first.send(signal.SIGTERM)
            deadline = time.monotonic() + 2.5
            while time.monotonic() < deadline and any(cluster.processes() for cluster in clusters):
                time.sleep(0.02)
            deadline = time.monotonic() + 2
            for cluster in clusters:
                _end(cluster, deadline)

    def power_on(self) -> list[PortalError]:
        """Start the nodes that should run and do not; leave those that run alone. Returns what hindered a cluster."""
        hindered = []
        for workspace in self._workspaces():
            for cluster in workspace.clusters():
                try:
                    with told():
                        self._power_on(cluster)
                except PortalError as error:
                    hindered.append(error)
        return hindered

    def _power_on(self, cluster: ClusterFolder) -> None:
        record = ClusterRecord.read(cluster.record)
        if record is None or record.deleting or record.stopped:
            return
        for node in cluster.nodes():
            state = node.state()
            if state is not None and state.rung not in NOTES:  # of an earlier version, which kept less apart
                state.keeper.send(signal.SIGKILL)
        missing = [
            node.rank
            for node in cluster.nodes()
            if node.rank < record.nodes and node.host_key.exists() and not node.going.exists() and not _runs(node)
        ]
        self._start(cluster, record, missing)

    # -- inside

    def _require_linux(self) -> None:
        if sys.platform != "linux":
            raise Refused(
                "Nodes on this computer need Linux.",
                evidence=f"This is {sys.platform}.",
                advice="Run the portal on a Linux machine, or choose another cloud.",
            )

    def _instance_type(self, spec: NodesSpec) -> InstanceType:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,57}[a-z0-9])?", spec.name):
            raise Refused(
                "A cluster's name may have small letters, digits and hyphens, at most 59.", evidence=spec.name[:80]
            )
        if not 1 <= spec.nodes <= MOST_NODES:
            raise Refused(f"A cluster on this computer has 1 to {MOST_NODES} nodes, not {spec.nodes}.")
        kinds = {kind.name: kind for kind in instance_types()}
        if spec.instance_type not in kinds:
            raise Refused(
                f"This computer has no instance type {spec.instance_type!r}.",
                advice=f"Choose one of {', '.join(kinds)}.",
            )
        return kinds[spec.instance_type]

    def _workspace(self, tags: Tags) -> WorkspaceFolder:
        return WorkspaceFolder(self.root / _name(tags.workspace))

    def _workspaces(self) -> list[WorkspaceFolder]:
        with contextlib.suppress(FileNotFoundError):
            return [WorkspaceFolder(path) for path in sorted(self.root.iterdir()) if path.is_dir()]
        return []

    def _records(self) -> Iterator[tuple[ClusterFolder, ClusterRecord]]:
        for workspace in self._workspaces():
            for cluster in workspace.clusters():
                if (record := ClusterRecord.read(cluster.record)) is not None:
                    yield cluster, record

    def _make_root(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _make_workspace(self, workspace: WorkspaceFolder) -> None:
        self._make_root()
        workspace.path.mkdir(mode=0o700, exist_ok=True)

    def _tidy(self, workspace: WorkspaceFolder) -> None:
        with contextlib.suppress(OSError):  # already gone
            if [path.name for path in workspace.path.iterdir()] == [workspace.identity.name]:
                workspace.identity.unlink()
        with contextlib.suppress(OSError):  # not empty, or already gone
            workspace.path.rmdir()

    def _workspace_leftovers(self, workspace: WorkspaceFolder, tags: Tags) -> list[Resource]:
        found = []
        if _is_ours(workspace.network, tags):
            found.append(Resource("network", str(workspace.network)))
        if _is_ours(workspace.filesystem, tags):
            found.append(Resource("filesystem", str(workspace.shared)))
        if workspace.path.is_dir() and not workspace.filesystem.exists():
            stray = [path for path in (workspace.shared, *workspace.path.glob(f"{_ASIDE}*")) if path.exists()]
            found += [Resource("folder", str(path)) for path in stray]
        return found

    def _agree(self, spec: NodesSpec, kind: InstanceType, cluster: ClusterFolder) -> ClusterRecord:
        """The cluster's record, which now wants at least what `spec` asks for."""
        for _ in range(5):
            record = ClusterRecord.read(cluster.record)
            if record is not None and not _same(record.tags, spec.tags):
                raise Refused("Another portal has a cluster of this id in this folder.", evidence=str(cluster.record))
            if record is not None and record.deleting:
                self._remove_cluster(cluster)
                record = None
            if record is None:
                network, port = self._free_network(spec.tags.subject)
                record = ClusterRecord(
                    tags=spec.tags,
                    name=spec.name,
                    instance_type=kind.name,
                    memory=int(kind.memory_gib * 2**30),
                    nodes=spec.nodes,
                    network=network,
                    port=port,
                    authorized_keys=spec.authorized_keys,
                )
                if record.write(cluster.record, only_new=True):
                    return record
                continue  # somebody was faster: theirs counts
            wanted = replace(
                record,
                instance_type=kind.name,
                memory=int(kind.memory_gib * 2**30),
                nodes=max(record.nodes, spec.nodes),
                stopped=0.0,
                authorized_keys=spec.authorized_keys,
            )
            if wanted != record:
                wanted.write(cluster.record)
            return wanted
        raise Passing("The cluster is being made and deleted at the same time.")

    def _prepare(self, node: NodeFolder, spec: NodesSpec) -> None:
        """All that a node needs before it starts. What is there of an earlier life of it stays."""
        node.path.mkdir(mode=0o700, exist_ok=True)
        for folder in (node.home, node.root):
            folder.mkdir(mode=0o700, exist_ok=True)
        node.tmp.mkdir(mode=0o700, exist_ok=True)
        write_atomically(node.host_key, spec.host_keys[node.rank].private)

    def _start(self, cluster: ClusterFolder, record: ClusterRecord, ranks: list[int]) -> None:
        if not ranks:
            return
        states = [state for node in cluster.nodes() if node.taken and (state := node.state()) and state.alive]
        rung = record.rung or self._rung
        for process in cluster.processes().orphans:
            process.send(signal.SIGKILL)
        for _ in range(8):
            names = {record.address(rank): record.hostname(rank) for rank in range(record.nodes)}
            write_in_place(cluster.hosts, shims.hosts(names))
            answer = self._launch(cluster.path, ranks, rung)
            if answer.gone:
                raise Passing("The cluster is being stopped or deleted.")
            if not answer.taken:
                if not record.rung:
                    replace(record, rung=answer.rung).write(cluster.record)
                return
            if states:
                raise Passing(
                    f"Another program listens on the address of a node, {answer.taken}.",
                    advice="End that program, or delete the cluster and make it again.",
                )
            network, port = self._free_network(record.tags.subject, but=record.network)
            record = replace(record, network=network, port=port)
            record.write(cluster.record)
        raise Passing("Other programs keep taking the addresses of this cluster's nodes.", evidence=answer.taken)

    def _launch(self, folder: Path, ranks: list[int], rung: str) -> Answer:
        """Have the launcher start these nodes. It answers as soon as nothing of it depends on us any more."""
        self._refuse_rung(rung)
        for rank in ranks:
            shims.write_programs(ClusterFolder(folder).node(rank).bin)
        source = packages.sources(os.environ)
        addresses = (*self.options.addresses, *source.addresses)
        order = Order(
            folder=str(folder),
            ranks=ranks,
            scratch=str(self.root),
            rung=rung,
            user=identity.of_workspace(folder.parent) if ranks else None,
            options={**asdict(self.options), "addresses": addresses, "root": str(self.root), "store": ""},
            told=dict(source.environment),
            places=[str(path) for path in source.places],
            upstream=packages.proxies(os.environ),
        )
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-m", processes.LAUNCHER, processes.mark_of(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            close_fds=True,
            cwd="/",
            env=_launcher_environment(),
        )
        try:
            out, err = process.communicate(order.json().encode(), timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Passing("This computer is too busy to start nodes.") from None
        try:
            answer = Answer(**json.loads(out))
        except ValueError:
            said = err.decode(errors="replace").strip().splitlines()
            raise Passing(
                "Nodes could not be started.", evidence=said[-1] if said else f"exit {process.returncode}"
            ) from None
        if not answer.rung or (rung == NAMESPACES and answer.why):
            raise Refused(
                "This computer grants no namespaces for nodes." if rung else "This computer cannot keep programs in.",
                evidence=answer.why,
                advice=f"Let the portal's user make namespaces; or, where you trust everybody who runs programs, set "
                f"PORTAL_LOCAL_RUNG to {PLAIN}. Clusters that had namespaces are then to be made anew.",
            )
        return answer

    def _refuse_rung(self, rung: str) -> None:
        if rung not in ("", NAMESPACES, LANDLOCK, PLAIN):
            raise Refused(
                f"There is no rung {rung!r}.", advice=f"Set PORTAL_LOCAL_RUNG to {NAMESPACES}, {LANDLOCK} or {PLAIN}."
            )
        if rung == PLAIN and self.options.strangers:
            raise Refused(
                "Nodes without isolation are not for a portal where everybody may make an organization.",
                advice="Set PORTAL_OPEN_ORGANIZATIONS to off, or let the kernel grant namespaces.",
            )
        if self.options.network not in (ISOLATED, HOST):
            raise Refused(
                f"There is no network {self.options.network!r}.",
                advice=f"Set PORTAL_LOCAL_NETWORK to {ISOLATED} or {HOST}.",
            )

    def _free_network(self, subject: str, *, but: int | None = None) -> tuple[int, int]:
        """A C and a port so that nobody on this computer listens on 127.77.C.I, whoever they are."""
        taken = {but}
        for workspace in self._workspaces():
            for cluster in workspace.clusters():
                taken.add((read_json(cluster.record) or {}).get("network"))
        first = zlib.crc32(subject.encode())  # two portals that are switched off should not choose the same
        for port in _PORTS:
            for step in range(254):
                network = (first + step) % 254 + 1
                if network not in taken and all(
                    _is_free(f"127.77.{network}.{number}", port) for number in range(1, MOST_NODES + 1)
                ):
                    return network, port
                if step == 16 and not _is_free("127.77.255.1", port):
                    break  # somebody listens everywhere
        raise Passing("All addresses for clusters on this computer are taken.", advice="Delete a cluster.")

    def _still_stop(self, cluster: ClusterFolder) -> Pending | None:
        """Of a cluster that was told to stop."""
        record, nodes = ClusterRecord.read(cluster.record), cluster.nodes()
        if record is None or not record.stopped or not (left := sum(node.taken for node in nodes)):
            return None
        return Pending(f"{left} of {len(nodes)} nodes still stop", self.look_in)

    def _remove_nodes(self, cluster: ClusterFolder, nodes: Sequence[NodeFolder]) -> Pending | None:
        """End and remove these nodes of a cluster, and leave the others alone."""
        there = [node for node in nodes if node.path.exists()]
        for node in there:
            node.going.touch()  # from now on nobody starts it
        deadline = time.monotonic() + 2
        while taken := [node for node in there if node.taken]:
            if time.monotonic() > deadline:
                return Pending(f"{len(taken)} of {len(nodes)} nodes still end", self.look_in)
            for node in taken:
                if (state := node.state()) is not None:
                    state.first.send(signal.SIGKILL)
            time.sleep(0.02)
        if there:
            for process in cluster.processes().orphans:
                process.send(signal.SIGKILL)
        for node in there:
            _put_aside(node)
        for folder in cluster.path.glob(f"{_ASIDE}*"):
            _remove(folder)
        return None

    def _remove_cluster(self, cluster: ClusterFolder) -> None:
        """End and remove everything of a cluster; its record last."""
        groups = cluster.groups()
        _end(cluster, time.monotonic() + 10)
        for group in groups | cluster.groups():  # a node that was just starting may have made its own meanwhile
            limits.remove_group(group)
        _remove(cluster.path)
        cluster.record.unlink(missing_ok=True)

    def _seen(self, record: ClusterRecord, cluster: ClusterFolder, node: NodeFolder) -> CloudNode:
        written = node.state()
        state, reason = _state_of(record, node, written)
        runs = state == NodeState.RUNNING
        rung = written.rung if written is not None and written.rung in NOTES else record.rung or NAMESPACES
        inside = rung == NAMESPACES
        address = record.address(node.rank) if runs else None
        note = _NETWORK_OF_HOST if inside and self.options.network == HOST else NOTES[rung]
        refuses = written.refuses if runs and written is not None else ""
        return CloudNode(
            id=f"{record.tags.subject}.{node.rank}",
            rank=node.rank,
            hostname=record.hostname(node.rank),
            state=state,
            address=address,
            port=record.port,
            private_address=address,
            user=shims.USER if inside else account(),
            home=str(view.HOME if inside else node.home),
            shared=str(view.SHARED if inside else _without_blanks(cluster.shared)),
            reason=reason,
            note=f"{refuses} {note}".strip(),
            door=str(node.door) if address else "",
            switched_off=_when(node.switched_off),
            refuses=refuses,
        )


def _state_of(record: ClusterRecord, node: NodeFolder, written: WrittenState | None) -> tuple[NodeState, str]:
    """What a node is in words of the portal, and why, if nobody asked for that."""
    told_to_end = record.deleting or record.stopped or node.going.exists()
    if node.taken:
        if told_to_end or not _runs(node):
            return NodeState.STOPPING, "" if told_to_end else "Its first process has ended."
        return (NodeState.RUNNING, "") if written is not None and written.ready else (NodeState.BOOTING, "")
    if told_to_end:
        return NodeState.STOPPED, ""
    if written is None:
        return NodeState.STOPPED, "It has not been started, or ended before it had begun."
    off = _when(node.switched_off)
    if off is not None and off.timestamp() >= node.state_file.stat().st_mtime:
        return NodeState.STOPPED, "It was switched off with the portal's other processes."
    return NodeState.STOPPED, "Its processes ended by themselves, or somebody killed them."


def _refuse_what_is_not_here(*, zone: str = "", spot: bool = False, role: str = "") -> None:
    for asked, can in ((zone, Can.ZONE), (spot, Can.SPOT), (role, Can.ROLE)):
        if asked:
            raise not_here(can, _COMPUTER)


def _refuse_choices(spec: WorkspaceSpec) -> None:
    if spec.choices:
        raise Refused("There is nothing to choose of a workspace on this computer.", evidence=str(spec.choices)[:200])


def _put_aside(node: NodeFolder) -> None:
    """Away from where nodes are looked for, all at once. Held meanwhile, so that no launcher begins with it."""
    try:
        lock = os.open(node.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # somebody else has done it
        return
    try:
        if not kernel.try_lock(lock):
            raise Passing("A node is being started and deleted at the same time.")
        place = tempfile.mkdtemp(prefix=_ASIDE, dir=node.path.parent)
        with contextlib.suppress(FileNotFoundError):
            os.rename(node.path, place)
        _remove(Path(place))
    finally:
        os.close(lock)


def _when(file: Path) -> datetime | None:
    """When it was touched."""
    with contextlib.suppress(FileNotFoundError):
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return None


def _without_blanks(path: Path) -> Path:
    """The path, or a link to it without blanks: Hydra cannot start its own helpers from a path that has one."""
    if not re.search(r"\s", str(path)):
        return path
    place = Path(tempfile.gettempdir()) / f"coxswain-links-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise Refused("A folder of the portal belongs to somebody else.", evidence=str(place))
    link = place / f"{zlib.crc32(str(path).encode()):08x}"
    if not link.is_symlink() or link.readlink() != path:
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return link


def _runs(node: NodeFolder) -> bool:
    """Whether it runs or starts. Held without a state of this life, it is starting; with a dead one, it is ending."""
    if not node.taken:
        return False
    state = node.state()
    return state is None or (state.alive and state.rung in NOTES)


def _end(cluster: ClusterFolder, deadline: float) -> None:
    """Kill all of a cluster's processes, again and again until none is left: some may just be starting others.

    One that ends between the listing and the look, and has started another after the listing, leaves none to be seen:
    but one of them holds the node.
    """
    while (found := cluster.processes()) or any(node.taken for node in cluster.nodes()):
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in found)
            raise Passing("Some processes of the cluster do not end.", evidence=f"Process ids: {pids}")
        # The commands first: as long as their keeper lives, none of them can slip out of the family.
        for process in found.commands or found.machinery:
            process.send(signal.SIGKILL)
        time.sleep(0.02)


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(folder)
        except (OSError, RecursionError):  # people may take their own rights away, or go deeper than rmtree can
            identity.open_up(folder)
            shutil.rmtree(folder)


def _launcher_environment() -> dict[str, str]:
    """Nothing of the portal's secrets, and what the launcher needs to find this package."""
    source = str(Path(__file__).resolve().parents[3])
    return {"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8", "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def _name(identifier: str) -> str:
    """An id that is the name of a folder and of nothing else."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", identifier):
        raise Refused("An id may have letters, digits and hyphens only.", evidence=identifier[:80])
    return identifier


def _same(these: Tags, those: Tags) -> bool:
    return these.portal == those.portal and these.subject == those.subject


def _is_ours(record: Path, tags: Tags) -> bool:
    value = read_json(record)
    return value is not None and _same(Tags(**value), tags)


def _ensure_record(record: Path, tags: Tags) -> None:
    if not write_atomically(record, json.dumps(asdict(tags), indent=1), only_new=True) and not _is_ours(record, tags):
        raise Refused("This folder belongs to another portal.", evidence=str(record))
