"""How a cluster is made, and taken apart again."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial, wraps

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils.timezone import now

from accounts import audit
from clusters import hostfile, neighbours
from clusters.models import Cluster, Node
from portal import detached, secrets, ssh
from portal.clouds import Can, CloudNode, NodesSpec, NodeState, RoleSpec
from portal.errors import NoRoom, Passing, PortalError, Refused
from portal.tasks.ledger import Work
from portal.tasks.models import CANCELLED, FAILED, FINISHED, Task, TaskStatus
from portal.tasks.plans import Plan, StepPlan
from portal.text import uuid_in
from workspaces import documents
from workspaces.models import Workspace

Status = Cluster.Status
MOST_TRIALS = 3  # of an installation, which asks a package index


def check_cloud(work: Work) -> None:
    cluster: Cluster = work.subject
    workspace = cluster.workspace
    account = workspace.cloud_config.account
    identity = account.check()
    start = "Change what cluster the job asks for: choose" if cluster.dedicated else "Delete this cluster and choose"
    kept = {one["name"] for one in workspace.listing.types} if workspace.listing else set()
    if cluster.instance_type not in kept and cluster.instance_type not in {
        offer.name for offer in account.instance_types(workspace.region)
    }:
        raise Refused(
            f"{cluster.instance_type} cannot be had in {workspace.region}.",
            advice=f"{start} another instance type.",
        )
    if cluster.zone and cluster.zone not in {zone.name for zone in workspace.cloud.zones()}:
        raise Refused(
            f"{workspace.region} has no zone {cluster.zone}.",
            advice=f"{start} another zone.",
        )
    if cluster.role:
        account.check_role(cluster.role)
    work.log(f"{identity.name}: {cluster.node_count} × {cluster.instance_type}, {cluster.cores} cores.")


def make_keys(work: Work) -> None:
    """The cluster's own key, and each node's host key before the node exists."""
    cluster: Cluster = work.subject
    with audit.atomic():
        work.prove()
        if not cluster.key_public:
            private, cluster.key_public = ssh.new_key(f"cluster {cluster.uuid}")
            secrets.seal(cluster, "key_private", private)
            cluster.save(update_fields=["key_public", "key_private"])
        have = set(cluster.nodes.values_list("rank", flat=True))
        missing = set(range(cluster.node_count)) - have
        stem = cluster.stem
        makes = Can.MAKE in cluster.can
        for rank in sorted(missing):
            node = Node(cluster=cluster, rank=rank, hostname=f"{stem}-{rank}")
            if makes:
                node.make_host_key()
            node.save()
        if missing and makes:
            workspace = cluster.workspace
            audit.record(
                "kept keys of",
                cluster,
                organization=workspace.organization,
                workspace=workspace,
                by=None,
                after={"host keys": len(missing)},
            )
    if makes:
        work.log(f"{cluster.node_count} host keys are pinned before the first boot.")
    else:
        work.log("The cluster's key is made. The computers have host keys of their own, which are pinned already.")


def write_document(work: Work) -> None:
    cluster: Cluster = work.subject
    names = [node.hostname for node in cluster.members]
    chosen = {"zone": cluster.zone, "spot": cluster.spot, "role": cluster.role, "tags": cluster.extra_tags}
    documents.write(
        work,
        instance_type=cluster.instance_type,
        engine=str(cluster.engine_version),
        nodes=names,
        **{name: value for name, value in chosen.items() if value},
    )


def _spec(cluster: Cluster) -> NodesSpec:
    return NodesSpec(
        tags=cluster.tags,
        name=cluster.stem,
        instance_type=cluster.instance_type,
        host_keys=tuple(node.host_key for node in cluster.members),
        authorized_keys=(cluster.workspace.login_public, cluster.key_public),
        zone=cluster.zone,
        spot=cluster.spot,
        role=cluster.role,
        extra_tags=tuple(sorted(cluster.extra_tags.items())),
    )


def make_role(work: Work) -> None:
    cluster: Cluster = work.subject
    if cluster.role:
        work.log(f"The nodes get the role {cluster.role}, so none is made.")
        return
    account, spec = cluster.workspace.cloud_config.account, RoleSpec(cluster.tags, tuple(cluster.extra_tags.items()))
    work.ask(lambda token: account.ensure_role(spec, token=token))


def drop_role(work: Work) -> None:
    cluster: Cluster = work.subject
    account = cluster.workspace.cloud_config.account
    work.ask(lambda token: account.delete_role(cluster.tags, token=token))


def ask_for_nodes(work: Work) -> None:
    _ask_for_missing(work)
    work.log(f"Asked for {work.subject.node_count} nodes.")


def _ask_for_missing(work: Work) -> None:
    cluster: Cluster = work.subject
    spec = _spec(cluster)
    try:
        work.ask(lambda token: cluster.workspace.cloud.ensure_nodes(spec, token=token))
    except NoRoom as error:
        raise _with_holders(cluster, error) from error


def _with_holders(cluster: Cluster, error: NoRoom) -> NoRoom:
    """And who has what is missing, as far as people of the workspace may know it."""
    who = holders(cluster.workspace, error.held_by)
    evidence = error.evidence or (f"In use: {who}." if who else "")
    return NoRoom(error.message, error.alternatives, evidence=evidence, held_by=error.held_by)


def holders(workspace: Workspace, subjects: Sequence[str]) -> str:
    """Who has nodes, given by their clusters, one a node: in words, those with most first. Of others, how many."""
    counts = Counter(subjects)
    uuids = [uuid for subject in counts if (uuid := uuid_in(subject))]
    names = {str(one.uuid): one.name for one in Cluster.objects.filter(workspace=workspace, uuid__in=uuids)}
    here = Counter({name: counts[subject] for subject, name in names.items()})
    words = [f"{count} by {name}" for name, count in here.most_common()]
    if others := sum(counts.values()) - sum(here.values()):
        words.append(f"{others} by clusters of other workspaces")
    return ", ".join(words)


def drop_nodes(work: Work) -> None:
    cluster: Cluster = work.subject
    cloud = cluster.workspace.cloud
    work.ask(lambda token: cloud.delete_nodes(cluster.tags, token=token))
    if left := [node for node in cloud.nodes(cluster.tags) if node.state != NodeState.GONE]:
        work.wait(work.soon(max(1, cloud.look_in)), f"{len(left)} of {cluster.node_count} nodes still stop")
    cluster.nodes.update(state=Node.State.GONE)


def drop_surplus(work: Work) -> None:
    """Nodes of higher ranks than the cluster has, because it was made smaller or did not become larger."""
    cluster: Cluster = work.subject
    cloud = cluster.workspace.cloud
    ranks = {node.rank for node in cloud.nodes(cluster.tags)} | set(cluster.nodes.values_list("rank", flat=True))
    surplus = tuple(sorted(rank for rank in ranks if rank >= cluster.node_count))
    if not surplus:
        return
    work.ask(lambda token: cloud.delete_nodes(cluster.tags, surplus, token=token))
    there = [node for node in cloud.nodes(cluster.tags) if node.rank in surplus and node.state != NodeState.GONE]
    if there:
        work.wait(work.soon(max(1, cloud.look_in)), f"{len(there)} of {len(surplus)} nodes still stop")
    names = dict(cluster.nodes.filter(rank__in=surplus).values_list("rank", "hostname"))
    with transaction.atomic():
        work.prove()
        cluster.nodes.filter(rank__in=surplus).delete()
    say_what_is_gone(work, cluster, [names.get(rank, f"{cluster.stem}-{rank}") for rank in surplus])


def say_what_is_gone(work: Work, cluster: Cluster, names: Sequence[str]) -> None:
    """Of these nodes: each is gone, or there and looked after by its cloud."""
    cloud = cluster.workspace.cloud
    found = cloud.leftovers(cluster.tags)
    later = [one.id for one in found if one.is_looked_after]
    confirmed = [name for name in names if name not in later]
    for name in confirmed:
        work.log(f"{name}: {'given back' if cluster.takes else 'confirmed gone'}.")
    if later:
        are = "are away and stay" if len(later) > 1 else "is away and stays"
        work.log(
            f"{len(confirmed)} of {len(confirmed) + len(later)} confirmed. {', '.join(later)} {are} taken until what "
            "runs there is ended, which happens by itself once it answers."
        )


def _write_down(cluster: Cluster, seen: list[CloudNode]) -> None:
    """What the cloud says of the nodes, into their rows."""
    rows = {node.rank: node for node in cluster.nodes.all()}
    for node in seen:
        row = rows.get(node.rank)
        if row is None:
            continue
        if row.cloud_id != node.id:  # another one in its place: nothing is known of that one yet
            row.state, row.seen, row.host_own = Node.State.ASKED, None, ""
        row.cloud_id, row.address, row.port, row.via = node.id, node.address or "", node.port, node.via
        row.private_address, row.user, row.home = node.private_address or "", node.user, node.home
        row.shared, row.door, row.notice = node.shared, node.door, node.notice[:200]
        if node.host_key:  # a computer that was there before us: it is called what it is called
            row.hostname, row.host_public = node.hostname, node.host_key
        row.certificate, row.key_certificate = (*node.certificates, "", "")[:2]
        row.save()
    if seen and seen[0].note != cluster.note:
        cluster.note = seen[0].note
        cluster.save(update_fields=["note"])


def reach_nodes(work: Work) -> None:
    """Wait until each node runs and answers over SSH. One that died meanwhile is asked for again; so is one that its
    cloud knows to be away, for another one in its place.

    Until a node has answered once, it is being set up: whatever is wrong with its SSH server may pass.
    """
    cluster: Cluster = work.subject
    cloud = cluster.workspace.cloud
    seen = [node for node in cloud.nodes(cluster.tags) if node.rank < cluster.node_count]
    coming = {node.rank for node in seen if node.is_coming and not node.is_away}
    if missing := sorted(set(range(cluster.node_count)) - coming):
        why = " ".join(dict.fromkeys(node.reason for node in seen if node.rank in missing and node.reason))
        called = dict(cluster.nodes.values_list("rank", "hostname"))
        work.log(f"Asked again for {', '.join(called[rank] for rank in missing)}. {why}".rstrip())
        _ask_for_missing(work)
        work.wait(work.soon(cloud.look_in), f"{len(coming)} of {cluster.node_count} nodes run or boot")
    with transaction.atomic():
        work.prove()
        _write_down(cluster, seen)
    booted = [node for node in seen if node.address]
    if len(booted) < cluster.node_count:
        late = next((node.rank for node in seen if not node.address), len(seen))
        words = partial(_last_words, cluster, late)
        detail = f"{len(booted)} of {cluster.node_count} nodes have booted"
        work.wait(work.soon(cloud.look_in), detail, evidence=words, code="silent")
    nodes = list(cluster.members)
    ready = seen[0].ready
    greeting = f"test -e {shlex.quote(ready)} && hostname" if ready else "hostname"
    greeted = ssh.run_on_all([node.host for node in nodes], greeting, seconds=15)
    answers = _pin_own_keys(work, nodes, greeted, seen)
    silent, rank = "", 0
    waiting = 0
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, Refused) and node.seen:
            raise answer
        if isinstance(answer, PortalError) or answer.status:
            why = f": {answer.message}" if isinstance(answer, Refused) else ""
            if not silent:
                silent, rank = f"{node.hostname}{why}", node.rank
            waiting += 1
        elif node.state != Node.State.ANSWERS:
            Node.objects.filter(pk=node.pk).update(state=Node.State.ANSWERS, seen=now())
            work.log(f"{node.hostname} answers at {node.address}, host key as pinned.")
    if silent:
        count = cluster.node_count - waiting
        detail = f"{count} of {cluster.node_count} answer, waiting for {silent}"
        words = partial(_last_words, cluster, rank)
        work.wait(work.soon(max(1, cloud.look_in)), detail, evidence=words, code="silent")


def _pin_own_keys(
    work: Work, nodes: Sequence[Node], answers: Sequence[ssh.Answer | PortalError], seen: Sequence[CloudNode]
) -> list[ssh.Answer | PortalError]:
    """Have nodes that answer known by the host keys that they made themselves, where their cloud wants that.

    The first connection was by a key that others can read from now on. A node shows both, so that whether this is
    written down or not, it can be signed in to; and no other computer gets the key that it was given.
    """
    places = {one.rank: one.own_key for one in seen}
    new = [
        at
        for at, (node, answer) in enumerate(zip(nodes, answers, strict=True))
        if places[node.rank] and not node.host_own and isinstance(answer, ssh.Answer) and answer.status == 0
    ]
    told = list(answers)
    calls: list[tuple[ssh.Host, str | ssh.Command, bytes]] = [
        (nodes[at].host, f"cat {shlex.quote(places[nodes[at].rank])}", b"") for at in new
    ]
    for at, answer in zip(new, ssh.run_each(calls, seconds=15) if calls else (), strict=True):
        node, told[at] = nodes[at], answer
        if isinstance(answer, PortalError) or answer.status:
            continue
        node.host_own = ssh.public_key(answer.text)
        node.make_host_key()
        with transaction.atomic():
            work.prove()
            node.save(update_fields=["host_own", "host_public", "host_private"])
        work.log(f"{node.hostname} is known by the host key that it made itself from now on.")
    return told


def _last_words(cluster: Cluster, rank: int) -> str:
    """What a node said while it booted, or why that is not known."""
    try:
        said = cluster.workspace.cloud.console(cluster.tags, rank).strip()
    except PortalError as error:
        said = f"{error.message} {error.evidence}".strip()
    return f"{cluster.nodes.get(rank=rank)}: {said or 'it has said nothing.'}"


def _finding_again(*first: Callable[[Work], None]) -> Callable[[Callable[[Work], None]], Callable[[Work], None]]:
    """Of a step that needs its nodes. Where it met a passing fault the time before, these come `first`: one that is
    gone may be another by now, at another address, whom the others do not know."""

    def decorate(do: Callable[[Work], None]) -> Callable[[Work], None]:
        @wraps(do)
        def step(work: Work) -> None:
            if work.memo.get("again"):
                for one in first:
                    one(work)
            try:
                do(work)
            except Passing:
                work.memo["again"] = True
                raise
            work.memo.pop("again", None)

        return step

    return decorate


def _all_or_passing(cluster: Cluster, command: str, *, input: bytes = b"", what: str) -> list[ssh.Answer]:  # noqa: A002
    """The answers of all nodes. Raises `Passing` when one is silent."""
    nodes = list(cluster.members)
    good: list[ssh.Answer] = []
    for node, answer in zip(nodes, ssh.run_on_all([node.host for node in nodes], command, input=input), strict=True):
        if isinstance(answer, PortalError):
            raise answer
        if answer.status:
            raise Refused(f"{what} failed on {node.hostname}.", evidence=answer.said)
        good.append(answer)
    return good


def home_files(cluster: Cluster, nodes: list[Node]) -> dict[str, str]:
    """What the head node's home has, so that its programs reach the other nodes: text by path."""
    return {"hostfile": hostfile.text(cluster, nodes), **neighbours.files(cluster, nodes[0], nodes)}


@_finding_again(reach_nodes)
def introduce_nodes(work: Work) -> None:
    """The cluster's key, known hosts, ssh configuration and hostfile, on all nodes at once, and on /shared."""
    cluster: Cluster = work.subject
    nodes = list(cluster.members)
    listed = hostfile.text(cluster, nodes)
    calls = []
    for node in nodes:
        texts = neighbours.files(cluster, node, nodes)
        texts |= {"hostfile": listed, hostfile.SCRIPT: hostfile.script(cluster, node)}
        files = {f"{node.home}/{name}": text.encode() for name, text in texts.items()}
        # Each head takes what is its own of the input, and leaves the rest.
        steps = [neighbours.making_room(node)]
        steps += [ssh.writing(path, size=len(data)) for path, data in files.items()]
        if Can.MAKE in cluster.can:  # elsewhere /tmp is other people's
            steps.append(hostfile.forwarding())
        calls.append((node.host, " && ".join(steps), b"".join(files.values())))
    for node, answer in zip(nodes, ssh.run_each(calls), strict=True):
        if isinstance(answer, PortalError):
            raise answer
        if answer.status:
            raise Refused(f"Introducing the others failed on {node.hostname}.", evidence=answer.said)
    settled = ssh.check(nodes[0].host, hostfile.settling(cluster, nodes[0]), what=f"Writing {cluster.hostfile}")
    is_old = settled.text == hostfile.OLD
    Cluster.objects.filter(pk=cluster.pk).update(hostfile_is_old=is_old)
    names = [answer.text for answer in _all_or_passing(cluster, "hostname", what="Asking for the hostname")]
    if names != [node.hostname for node in nodes]:
        raise Refused("The nodes do not have the names they were given.", evidence=", ".join(names))
    if is_old:
        work.log(f"Hostfile {cluster.hostfile}: left as it is; nodes have been added to the cluster since.")
    else:
        work.log(f"Hostfile {cluster.hostfile}: {len(nodes)} nodes, {cluster.cores} cores.")


def forget_nodes(work: Work) -> None:
    """Take the hostfile off /shared, by any node that answers."""
    cluster: Cluster = work.subject
    for node in cluster.nodes.exclude(address="").exclude(state=Node.State.STOPPED):
        try:
            ssh.run(node.host, f"rm -f {shlex.quote(cluster.hostfile)}", seconds=15)
        except PortalError as error:
            work.log(f"{error.message} Asking the next node.")
        else:
            return


@_finding_again(introduce_nodes)
def install_engine(work: Work) -> None:
    """Once for each workspace and version, into /shared; as a command of the head node, looked at from time to time."""
    cluster: Cluster = work.subject
    head = cluster.nodes.get(rank=0)
    folder = cluster.engine_folder
    # A folder for each try: a detached command runs once in a folder's life.
    if work.memo.setdefault("head", head.cloud_id) != head.cloud_id:  # what it began there cannot be looked at here
        work.memo["head"], work.memo["trial"] = head.cloud_id, work.memo["trial"] + 1
    trial = work.memo.setdefault("trial", 1)
    place = f"{head.shared}/.engines/.install-{cluster.engine_version.slug}-{cluster.uuid.hex[:8]}-{trial}"
    if ssh.run(head.host, f"test -f {shlex.quote(folder)}/.complete && rm -rf {shlex.quote(place)}").status == 0:
        work.log(f"{cluster.engine_version} is in {folder}.")
        _remove_other_engines(cluster, head)
        return
    end, started, said = detached.look(head.host, place)
    if not started:
        packages = [str(package) for package in cluster.engine_version.packages]
        detached.start(
            head.host,
            place,
            argv=["/bin/sh", "-c", _INSTALL, "install", folder, *packages],
            env={},
        )
        work.log(f"Installing {', '.join(packages)} into {folder}.")
        work.wait(0.5, f"installing {cluster.engine_version}")
    if end is None:
        last = said.splitlines()[-1] if said else f"installing {cluster.engine_version}"
        work.wait(1, last[:200])
    ssh.run(head.host, f"rm -rf {shlex.quote(place)}")
    if end["status"] != 0:
        work.memo["trial"] = trial + 1
        # Counted here, because a step that waits between two faults has no faults in a row.
        trouble = Refused if trial >= MOST_TRIALS else Passing
        raise trouble(f"{cluster.engine_version} could not be installed.", evidence=said[-1500:])


def _remove_other_engines(cluster: Cluster, head: Node) -> None:
    """Engine versions that no cluster of the workspace has any more: a gigabyte each, on a disk that all share."""
    live = Cluster.objects.live().filter(workspace=cluster.workspace).select_related("engine_version")
    wanted = " ".join(sorted({shlex.quote(other.engine_version.slug) for other in live}))
    ssh.run(
        head.host,
        f"cd {shlex.quote(head.shared)}/.engines && for found in */; do found=${{found%/}}; "
        f'case " {wanted} " in *" $found "*) ;; *) rm -rf "$found" "$found.lock" ;; esac; done',
    )


# Made beside its place and moved there when whole. A lock, because two clusters of a workspace may want it at once.
_INSTALL = """
set -eu
final=$1; shift
mkdir -p "$(dirname "$final")"
exec 9> "$final.lock"
flock 9
if [ -f "$final/.complete" ]; then exit 0; fi
rm -rf "$final"
if command -v uv > /dev/null; then
  uv venv --quiet --python "$(command -v python3)" "$final"
  uv pip install --python "$final/bin/python" --link-mode copy "$@" || {
    echo "uv could not; trying pip"
    python3 -m venv --clear "$final"
    "$final/bin/python" -m pip install --disable-pip-version-check --no-input "$@"
  }
else
  python3 -m venv --clear "$final"
  "$final/bin/python" -m pip install --disable-pip-version-check --no-input "$@"
fi
"$final/bin/python" -m compileall -q "$final/lib" || true
touch "$final/.complete"
echo "installed"
"""

# The first rank says how it reaches the others.
_HELLO = (
    "import os; os.environ.get('PMI_RANK') == '0' and os.environ.update(UCX_LOG_LEVEL='info', UCX_LOG_FILE='stderr'); "
    "from mpi4py import MPI; import socket; w = MPI.COMM_WORLD; "
    "t = w.allreduce(w.rank); names = w.gather(socket.gethostname(), 0); "
    "print(__import__('json').dumps([w.size, t, sorted(set(names))])) if w.rank == 0 else None"
)
_FABRIC = re.compile(r"inter-node cfg#\d+ tag\(([a-z0-9_]{1,20})/")
MOST_WITH_EFA = 2  # times that the program may fail on nodes with EFA before it is tried without


@_finding_again(introduce_nodes)
def try_mpi(work: Work) -> None:
    """A small MPI program on all cores of all nodes: the cluster is only RUNNING when that worked.

    Not on cores that a run is on, or has the turn to be: it would slow the run down, and fail where the run leaves no
    memory.
    """
    cluster: Cluster = work.subject
    unfinished = cluster.runs.filter(status__in=("new", "inprogress"))
    if going_on := unfinished.exclude(status="new", turn=None).order_by("pk").first():
        work.log(f"{going_on} goes on here: the MPI program was not tried, so as not to disturb it.")
        return
    head = cluster.nodes.get(rank=0)
    python = f"{cluster.engine_folder}/bin/python"
    cluster.without_verbs = _has_efa(cluster) and work.memo.get("failed", 0) >= MOST_WITH_EFA
    environment = cluster.environment
    words = ["mpiexec", "-n", str(cluster.cores), "-f", f"{head.home}/hostfile", python, "-c", _HELLO]
    path = f"{cluster.engine_folder}/bin"
    seconds = 40 + cluster.cores // 20  # a rank takes about 12 ms to start
    command = (
        f"export PATH={shlex.quote(path)}:$PATH; {shlex.join(['env', *(f'{k}={v}' for k, v in environment.items())])} "
        f"timeout -k 2 {seconds} {shlex.join(words)}"
    )
    answer = ssh.run(head.host, command, seconds=seconds + 10)
    if answer.status:
        work.memo["failed"] = work.memo.get("failed", 0) + 1
        raise Passing(f"The MPI program ended with exit status {answer.status}.", evidence=answer.said)
    try:
        size, total, names = json.loads(answer.text.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise Passing("The MPI program printed something else than its result.", evidence=answer.said) from error
    expected = [node.hostname for node in cluster.members]
    if (size, total) != (cluster.cores, cluster.cores * (cluster.cores - 1) // 2) or names != sorted(expected):
        raise Refused("The MPI program did not reach every core of every node.", evidence=answer.text)
    found = _FABRIC.search(answer.err.decode(errors="replace"))
    cluster.fabric = found[1] if found else ""
    with transaction.atomic():
        work.prove()
        cluster.save(update_fields=["fabric", "without_verbs"])
    between = f" Between nodes: {cluster.fabric_words}." if cluster.fabric_words else ""
    work.log(f"{size} ranks on {len(names)} nodes added up their numbers: {total}, as it should be.{between}")


def _has_efa(cluster: Cluster) -> bool:
    """As far as the account's list of instance types says."""
    listing = cluster.workspace.listing
    types = listing.types if listing else ()
    return any(one["name"] == cluster.instance_type and one.get("accelerated_network") for one in types)


def check_nothing_is_left(work: Work) -> None:
    cluster: Cluster = work.subject
    wait_until_gone(work, cluster)
    nodes = list(cluster.nodes.all())
    say_what_is_gone(work, cluster, [node.hostname for node in nodes])
    if cluster.takes:  # computers that are there afterwards: no connection of ours stays on them until it is idle
        ssh.hang_up([node.host for node in nodes if node.address])
    forget_keys(cluster)


def wait_until_gone(work: Work, cluster: Cluster) -> None:
    """But not for what its cloud takes away by itself."""
    cloud = cluster.workspace.cloud
    if left := [one for one in cloud.leftovers(cluster.tags) if not one.is_looked_after]:
        work.wait(work.soon(max(2, cloud.look_in)), f"Still there: {', '.join(map(str, left))}")


def note_end(task: Task) -> None:
    """What people have asked for or cancelled is activity until its end. What nobody has asked for is none."""
    if task.asked_by_id is not None or task.status == TaskStatus.CANCELLED:
        Cluster.objects.filter(pk=task.subject_id).update(last_active=Now())


def forget_keys(cluster: Cluster) -> None:
    """Of what is gone for ever."""
    Node.objects.filter(cluster=cluster).update(host_private="")
    Cluster.objects.filter(pk=cluster.pk).update(key_private="")


def note_creation(task: Task) -> None:
    """Nodes of one that has failed are of use to nobody but whoever looks at them, and may cost money."""
    note_end(task)
    minutes = 0 if task.subject.dedicated else settings.FAILED_CLUSTER_MINUTES
    until = Now() + timedelta(minutes=minutes) if task.status == FAILED and minutes > 0 else None
    Cluster.objects.filter(pk=task.subject_id).update(kept_until=until)


def note_repair(task: Task) -> None:
    """Somebody mends it: the portal takes none of its nodes away by itself any more."""
    note_end(task)
    Cluster.objects.filter(pk=task.subject_id).update(kept_until=None)


GIVEN_BACK = (
    "What it runs on its computers: programs and terminals, which are ended",
    "Its folder on each computer. The computers are free for others then",
)

CREATE = Plan(
    "clusters.create",
    "Create cluster",
    "made",
    [
        StepPlan("check", "Check the cloud and the instance type", check_cloud, icon="bi-shield-check"),
        StepPlan(
            "keys",
            "Make keys and host keys",
            make_keys,
            why="so that even the first connection is to the right node",
            icon="bi-key",
            taken="Make the cluster's key",
            why_taken="by which its nodes sign in to each other",
        ),
        StepPlan(
            "document",
            "Write down what is to be made",
            write_document,
            documents.remove,
            undo_title="Take away what was written down",
            why="in the cloud configuration's own store, for whoever owns the account",
            icon="bi-list-ol",
            needs=Can.STORE,
        ),
        StepPlan(
            "role",
            "Make the nodes' role",
            make_role,
            drop_role,
            undo_title="Take the nodes' role away",
            why="what they may do in the account; of this cluster alone",
            icon="bi-person-badge",
            needs=Can.ROLE,
        ),
        StepPlan(
            "nodes",
            "Ask for the nodes",
            ask_for_nodes,
            drop_nodes,
            undo_title="Stop the nodes, and delete them",
            icon="bi-hdd-stack",
            taken="Take the computers",
            why_taken="all of them or none; each gets a folder of the cluster",
            undo_taken="End what runs on the computers, and give them back",
        ),
        StepPlan(
            "reach",
            "Nodes boot and answer",
            reach_nodes,
            icon="bi-broadcast",
            limit=timedelta(minutes=15),
            taken="Sign in to each",
        ),
        StepPlan(
            "introduce",
            "Introduce the nodes to each other",
            introduce_nodes,
            forget_nodes,
            undo_title="Take the hostfile away",
            why="ssh from any node to any other, and a hostfile on the shared filesystem",
            icon="bi-diagram-3",
        ),
        StepPlan(
            "engine",
            "Install the engine version",
            install_engine,
            why="once for each workspace",
            icon="bi-box-seam",
            patience=timedelta(minutes=1),
            limit=timedelta(minutes=30),
        ),
        StepPlan(
            "try",
            "Try a small MPI program on all nodes",
            try_mpi,
            why="only then the cluster is RUNNING",
            icon="bi-check2-all",
            patience=timedelta(minutes=2),
        ),
    ],
    queue="provision",
    during=Status.INPROGRESS,
    begins={Status.NEW},
    then={FINISHED: Status.RUNNING, FAILED: Status.FAILED, CANCELLED: Status.TERMINATED},
    settle=note_creation,
)

_SURPLUS = StepPlan(
    "surplus",
    "Take away nodes that it does not need any more",
    drop_surplus,
    why="those of the highest ranks",
    taken="Give computers back that it does not need any more",
    why_taken="those of the highest ranks",
    icon="bi-dash-circle",
)

# The same steps: each finds what is there, and makes what is missing. Cancelling it takes nothing away.
REPAIR = replace(
    CREATE,
    kind="clusters.repair",
    title="Repair cluster",
    participle="repaired",
    steps=[each for step in CREATE.steps for each in ((step, _SURPLUS) if step.name == "introduce" else (step,))],
    begins={Status.RUNNING, Status.FAILED},
    then={FINISHED: Status.RUNNING, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    undoes_on_cancel=False,
    settle=note_repair,
)

DELETE = Plan(
    "clusters.delete",
    "Delete cluster",
    "deleted",
    [
        *CREATE.teardown(),
        StepPlan("gone", "Ask the cloud what is left", check_nothing_is_left, icon="bi-check2-all"),
    ],
    queue="teardown",
    during=Status.TERMINATING,
    begins={Status.RUNNING, Status.PAUSED, Status.STOPPED, Status.FAILED},
    then={FINISHED: Status.TERMINATED, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    undoes_on_cancel=False,
    undoes=CREATE,
    destroys=("The nodes, and what is on their own disks", "Its keys and its hostfile"),
    gives_back=(*GIVEN_BACK, "Its keys and its hostfile"),
    spares=("What lies on the shared filesystem", "Jobs, runs and their output"),
)
