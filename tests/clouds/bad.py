"""A cloud in memory, and bad clouds: each wraps a cloud and spoils one thing that clouds do."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from portal.clouds import (
    Alternative,
    Can,
    CloudKind,
    CloudNode,
    Identity,
    InstanceType,
    Lock,
    Market,
    NodeState,
    NoRoom,
    Offer,
    Passing,
    Pending,
    Permission,
    Quota,
    Refused,
    Region,
    Resource,
    Zone,
)
from portal.clouds.stores import checked
from portal.clouds.types import not_here
from portal.errors import Conflict


class AccountOf:
    """The account whose one region this cloud is."""

    def __init__(self, cloud):
        self._cloud, self._store = cloud, MemoryStore()
        self.kind, self.can = CloudKind.LOCAL, getattr(cloud, "can", frozenset())

    def check(self):
        return getattr(self._cloud, "check", lambda: Identity("Memory"))()

    def permissions(self):
        return [Permission("Remember", True)]

    def regions(self):
        return [Region("memory", "Memory")]

    def instance_types(self, region):
        return list(MemoryCloud.types)

    def check_role(self, name):
        return self._cloud.check_role(name)

    def attach_role(self, name):
        return self._cloud.attach_role(name)

    def detach_role(self, name):
        return self._cloud.detach_role(name)

    def ensure_role(self, spec, *, token=""):
        return self._cloud.ensure_role(spec, token=token)

    def delete_role(self, tags, *, token=""):
        return self._cloud.delete_role(tags, token=token)

    def reading(self, bucket):
        if Can.BUCKET not in self.can:
            raise not_here(Can.BUCKET, "Memory")
        return f"to read {bucket}"

    @property
    def store(self):
        return self._store

    def cloud(self, region):
        return self._cloud


class MemoryStore:
    """What a store promises, in a few lines. `now` is its clock."""

    def __init__(self):
        self.objects, self.locks, self.now = {}, {}, time.time

    def put(self, name, data, *, lock=None):
        self._prove(lock)
        self.objects[checked(name)] = data if isinstance(data, bytes) else b"".join(data)

    def size(self, name):
        data = self.objects.get(checked(name))
        return None if data is None else len(data)

    def get(self, name, start=0, size=None):
        data = self.objects.get(checked(name))
        return None if data is None else data[start : None if size is None else start + size]

    def list(self, prefix=""):
        return sorted(name for name in self.objects if name.startswith(prefix))

    def delete(self, name, *, lock=None):
        self._prove(lock)
        self.objects.pop(checked(name), None)
        if lock and lock.name == name:
            del self.locks[name]

    def lock(self, name, *, owner, seconds, over=""):
        held, now = self.locks.get(name), self.now()
        if self.holder(name) and held.owner not in (owner, over):
            return None
        fence = held.fence if held and held.owner == owner else (held.fence if held else 0) + 1
        self.locks[name] = Lock(checked(name), owner, fence, datetime.fromtimestamp(now + seconds, UTC))
        return self.locks[name]

    def holder(self, name):
        held = self.locks.get(name)
        return held if held and held.until.timestamp() > self.now() else None

    def release(self, lock):
        held = self.locks.get(lock.name)
        if held and held.fence == lock.fence:
            self.locks[lock.name] = replace(held, owner="", until=datetime.fromtimestamp(0, UTC))

    def _prove(self, lock):
        held = lock and self.locks.get(lock.name)
        if lock and (held is None or (held.owner, held.fence) != (lock.owner, lock.fence)):
            raise Conflict("Somebody else works on this now.")


class MemoryCloud:
    """A cloud without machines. Nodes run at once; nobody can sign in."""

    kind = CloudKind.LOCAL
    can = frozenset({Can.MAKE, Can.NETWORK, Can.FILESYSTEM, Can.STORE, Can.PAUSE, Can.SCALE})
    look_in = 5.0
    types = [InstanceType(f"local.{n}", "Memory", n, n, 2.0 * n) for n in (1, 2)]

    def __init__(self):
        self.networks, self.filesystems, self.clusters = {}, {}, {}
        self.tags = {}  # of each cluster
        self.taken = {}  # cores of each
        self.roles = {}
        self.own_roles = {"reader": False}  # of the account's owner, and whether it is fit for nodes
        self._numbers = itertools.count(1)

    def _refuse_what_is_not_here(self, **asked):
        for can, value in asked.items():
            if value and Can(can) not in self.can:
                raise not_here(Can(can), "Memory")

    def zones(self):
        self._refuse_what_is_not_here(zone=True)
        return [Zone("a"), Zone("b")]

    def check_role(self, name):
        self._refuse_what_is_not_here(role=True)
        if name not in self.own_roles:
            raise Refused(f"There is no role {name!r}.", code="not_found")
        return Identity(name)

    def attach_role(self, name):
        self.check_role(name)
        self.own_roles[name] = True

    def detach_role(self, name):
        self._refuse_what_is_not_here(role=True)
        if name in self.own_roles:
            self.own_roles[name] = False

    def ensure_role(self, spec, *, token=""):
        self._refuse_what_is_not_here(role=True)
        self.roles.setdefault((spec.tags.portal, spec.tags.subject), spec.tags)

    def delete_role(self, tags, *, token=""):
        self._refuse_what_is_not_here(role=True)
        if any(node.state != NodeState.GONE for node in self.nodes(tags)):
            raise Refused("Nodes have this role.")
        self.roles.pop((tags.portal, tags.subject), None)

    def offer(self, instance_type, nodes, *, zone="", spot=False):
        cores = {kind.name: kind.cores for kind in self.types}
        if instance_type not in cores:
            return Offer(None, impossible=f"There is no instance type {instance_type!r}.")
        taken = sum(self.taken.values())
        price = Decimal(nodes) if Can.PRICES in self.can else None
        return Offer(price, (Quota("cores", cores[instance_type] * nodes, 40 - taken),))

    def market(self):
        self._refuse_what_is_not_here(prices=True)
        return Market()

    def running(self):
        self._refuse_what_is_not_here(prices=True)
        return {}

    def ensure_network(self, spec, *, token=""):
        tags = self._allowed(spec)
        self.networks.setdefault((tags.portal, tags.subject), tags)

    @staticmethod
    def _allowed(spec):
        if spec.choices:
            raise Refused("There is nothing to choose.")
        return spec.tags

    def delete_network(self, tags, *, token=""):
        self.networks.pop((tags.portal, tags.subject), None)

    def ensure_filesystem(self, spec, *, token=""):
        tags = self._allowed(spec)
        self.filesystems.setdefault((tags.portal, tags.subject), tags)

    def delete_filesystem(self, tags, *, token=""):
        self.filesystems.pop((tags.portal, tags.subject), None)

    def ensure_nodes(self, spec, *, token=""):
        if spec.instance_type not in {kind.name for kind in self.types}:
            raise Refused(f"There is no instance type {spec.instance_type!r}.")
        self._refuse_what_is_not_here(zone=spec.zone, spot=spec.spot, role=spec.role)
        cores = {kind.name: kind.cores for kind in self.types}[spec.instance_type]
        self.taken[spec.tags.portal, spec.tags.subject] = cores * spec.nodes
        cluster = self.clusters.setdefault((spec.tags.portal, spec.tags.subject), {})
        self.tags[spec.tags.portal, spec.tags.subject] = spec.tags
        for rank in range(spec.nodes):
            if rank not in cluster or not cluster[rank].running:
                number = next(self._numbers)
                stopped = rank in cluster and cluster[rank].state == NodeState.STOPPED
                cluster[rank] = CloudNode(
                    id=cluster[rank].id if stopped else f"node-{number}",
                    rank=rank,
                    hostname=f"{spec.name}-{rank}",
                    state=NodeState.RUNNING,
                    address=f"10.0.{number >> 8}.{number & 255}",
                    port=22,
                    private_address=f"10.0.{number >> 8}.{number & 255}",
                    user="ubuntu",
                    home="/home/ubuntu",
                    shared="/shared",
                    zone=spec.zone,
                    spot=spec.spot,
                )

    def stop_nodes(self, tags, *, token=""):
        cluster = self.clusters.get((tags.portal, tags.subject), {})
        for rank, node in cluster.items():
            if node.state != NodeState.GONE:
                cluster[rank] = replace(node, state=NodeState.STOPPED, address=None, private_address=None)

    def console(self, tags, rank):
        return "Booted." if rank in self.clusters.get((tags.portal, tags.subject), {}) else ""

    def nodes(self, tags):
        return [node for _, node in sorted(self.clusters.get((tags.portal, tags.subject), {}).items())]

    def inventory(self, portal):
        return {self.tags[key]: self.nodes(self.tags[key]) for key in self.clusters if key[0] == portal}

    def owners(self, portal):
        others = (*self.networks.values(), *self.filesystems.values(), *self.roles.values())
        return {*self.inventory(portal), *(tags for tags in others if tags.portal == portal)}

    def delete_nodes(self, tags, ranks=None, *, token=""):
        if ranks is None:
            self.clusters.pop((tags.portal, tags.subject), None)
            self.taken.pop((tags.portal, tags.subject), None)
        for rank in ranks or ():
            self.clusters.get((tags.portal, tags.subject), {}).pop(rank, None)

    def leftovers(self, tags):
        there = [node for node in self.nodes(tags) if node.state != NodeState.GONE]
        found = [Resource("node", node.id, node.hostname) for node in there]
        for kind, things in (("network", self.networks), ("filesystem", self.filesystems), ("role", self.roles)):
            if (tags.portal, tags.subject) in things:
                found.append(Resource(kind, tags.subject))
        return found

    def kill(self, tags, rank):
        cluster = self.clusters[tags.portal, tags.subject]
        reason = "The cloud has taken it back."
        cluster[rank] = replace(cluster[rank], state=NodeState.GONE, address=None, reason=reason)


class WholeCloud(MemoryCloud):
    """One that can do all that a cloud may be able to do."""

    can = frozenset(Can)


class _Around:
    """Another cloud, unspoiled."""

    def __init__(self, inner):
        self.inner = inner
        self.kind = inner.kind

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Slow(_Around):
    """Does at once what it is asked, and says for `looks` times that it is still coming, or going.

    Nodes run only after they have been looked at so often. A long operation is known by its token.
    """

    def __init__(self, inner, looks=3):
        super().__init__(inner)
        self.looks = looks
        self._seen = {}
        self._asked = {}

    def _pending(self, name, *arguments, token):
        key = (name, arguments)
        asked = self._asked[key] = self._asked.get(key, 0) + 1
        if asked == 1:
            assert not token, f"{name}: another operation's token"
            while getattr(self.inner, name)(*arguments):
                time.sleep(0.05)
        else:
            assert token in ("", f"operation {name}"), f"{name}: another operation's token"
        if asked > self.looks:
            del self._asked[key]
            return None
        return Pending(f"{name}: still under way", self.inner.look_in, token=f"operation {name}")

    def ensure_network(self, spec, *, token=""):
        return self._pending("ensure_network", spec, token=token)

    def ensure_filesystem(self, spec, *, token=""):
        return self._pending("ensure_filesystem", spec, token=token)

    def ensure_role(self, spec, *, token=""):
        return self._pending("ensure_role", spec, token=token)

    def delete_role(self, tags, *, token=""):
        return self._pending("delete_role", tags, token=token)

    def ensure_nodes(self, spec, *, token=""):
        return self._pending("ensure_nodes", spec, token=token)

    def stop_nodes(self, tags, *, token=""):
        return self._pending("stop_nodes", tags, token=token)

    def delete_nodes(self, tags, ranks=None, *, token=""):
        return self._pending("delete_nodes", tags, ranks and tuple(sorted(ranks)), token=token)

    def delete_filesystem(self, tags, *, token=""):
        return self._pending("delete_filesystem", tags, token=token)

    def delete_network(self, tags, *, token=""):
        return self._pending("delete_network", tags, token=token)

    def leftovers(self, tags):
        """What goes is there until it was asked about often enough."""
        going = [name for (name, (of, *_)) in self._asked if name.startswith("delete_") and of == tags]
        return self.inner.leftovers(tags) + [Resource(name.removeprefix("delete_"), "1", "", True) for name in going]

    def nodes(self, tags):
        seen = self.inner.nodes(tags)
        for node in seen:
            self._seen[node.id] = self._seen.get(node.id, 0) + 1
        return [
            node
            if self._seen[node.id] > self.looks
            else replace(node, state=NodeState.BOOTING, address=None)
            if node.running
            else node
            for node in seen
        ]


class Full(_Around):
    """Has room for `capacity` nodes of a cluster: makes these, then refuses."""

    def __init__(self, inner, capacity):
        super().__init__(inner)
        self.capacity = capacity

    def ensure_nodes(self, spec, *, token=""):
        if spec.nodes <= self.capacity:
            return self.inner.ensure_nodes(spec)
        if self.capacity:
            self.inner.ensure_nodes(replace(spec, host_keys=spec.host_keys[: self.capacity]))
        raise NoRoom(
            f"The cloud has no room for {spec.nodes} nodes of type {spec.instance_type}.",
            [Alternative(zone="another zone"), Alternative(instance_type="another type")],
            evidence="InsufficientInstanceCapacity",
        )


class Refusing(_Around):
    """Bad credentials: nothing can be checked or made."""

    def _refuse(self, *_, **__):
        raise Refused("The cloud does not accept these credentials.", evidence="UnauthorizedOperation")

    check = ensure_network = ensure_filesystem = ensure_role = ensure_nodes = _refuse


class Forgetful(_Around):
    """Does what it is asked, but the first reply to each kind of request is lost."""

    def __init__(self, inner):
        super().__init__(inner)
        self._lost = set()

    def _lose(self, name, *arguments):
        pending = getattr(self.inner, name)(*arguments)
        if name not in self._lost:
            self._lost.add(name)
            raise Passing("The cloud's reply was lost.", evidence="read timed out")
        return pending

    def ensure_network(self, spec, *, token=""):
        return self._lose("ensure_network", spec)

    def ensure_filesystem(self, spec, *, token=""):
        return self._lose("ensure_filesystem", spec)

    def ensure_role(self, spec, *, token=""):
        return self._lose("ensure_role", spec)

    def delete_role(self, tags, *, token=""):
        return self._lose("delete_role", tags)

    def ensure_nodes(self, spec, *, token=""):
        return self._lose("ensure_nodes", spec)

    def stop_nodes(self, tags, *, token=""):
        return self._lose("stop_nodes", tags)

    def delete_nodes(self, tags, ranks=None, *, token=""):
        return self._lose("delete_nodes", tags, ranks)

    def delete_filesystem(self, tags, *, token=""):
        return self._lose("delete_filesystem", tags)

    def delete_network(self, tags, *, token=""):
        return self._lose("delete_network", tags)


class Died(BaseException):
    """The worker's process is gone: nothing catches this."""


class Dying(_Around):
    """The worker dies in the `call`-th request that changes something; of several nodes, half were made."""

    def __init__(self, inner, call=1):
        super().__init__(inner)
        self.call = call
        self.calls = 0

    def _count(self):
        self.calls += 1
        return self.calls == self.call

    def ensure_nodes(self, spec, *, token=""):
        if not self._count():
            return self.inner.ensure_nodes(spec)
        if half := spec.nodes // 2:
            self.inner.ensure_nodes(replace(spec, host_keys=spec.host_keys[:half]))
        raise Died

    def _then_die(self, name, *arguments):
        dying = self._count()
        pending = getattr(self.inner, name)(*arguments)
        if dying:
            raise Died
        return pending

    def ensure_role(self, spec, *, token=""):
        return self._then_die("ensure_role", spec)

    def delete_role(self, tags, *, token=""):
        return self._then_die("delete_role", tags)

    def ensure_network(self, spec, *, token=""):
        return self._then_die("ensure_network", spec)

    def ensure_filesystem(self, spec, *, token=""):
        return self._then_die("ensure_filesystem", spec)

    def stop_nodes(self, tags, *, token=""):
        return self._then_die("stop_nodes", tags)

    def delete_nodes(self, tags, ranks=None, *, token=""):
        return self._then_die("delete_nodes", tags, ranks)

    def delete_filesystem(self, tags, *, token=""):
        return self._then_die("delete_filesystem", tags)

    def delete_network(self, tags, *, token=""):
        return self._then_die("delete_network", tags)
