"""How a cluster lives once it is made: paused and resumed, stopped and started, restarted, scaled, forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from django.db import transaction

from clusters.models import Cluster, Node, due_soon
from clusters.plans import (
    CREATE,
    DELETE,
    GIVEN_BACK,
    REPAIR,
    ask_for_nodes,
    drop_surplus,
    forget_keys,
    introduce_nodes,
    make_keys,
    note_end,
    reach_nodes,
    say_what_is_gone,
    try_mpi,
    wait_until_gone,
    write_document,
)
from portal.clouds import Can, NodeState
from portal.errors import PortalError, Refused
from portal.tasks.ledger import Work, cancel_task
from portal.tasks.models import CANCELLED, FAILED, FINISHED, UNFINISHED
from portal.tasks.plans import LEFT, Plan, StepPlan

Status = Cluster.Status


def let_runs_end(work: Work) -> None:
    """Nobody is on it. What has ended is cleaned up by its own task, which needs the nodes for that.

    A pause that nobody has asked for gives way to a run that was asked for at the same moment.
    """
    cluster: Cluster = work.subject
    if work.task.kind == PAUSE.kind:
        give_way(cluster)
        work.look_for_cancel()
    ending = cluster.runs.exclude(turn=None).filter(tasks__status__in=UNFINISHED).order_by("pk").first()
    if ending is not None:
        work.wait(0.5, f"{ending} is being cleaned up")


def give_way(cluster: Cluster) -> None:
    """Take back a pause that nobody has asked for, where a run waits for the cluster."""
    by_itself = cluster.tasks.unfinished().filter(kind=PAUSE.kind, asked_by=None, cancel_asked=False)
    if cluster.runs.filter(due_soon(), status="new").exists():
        for task in by_itself:
            cancel_task(task)


def halt_nodes(work: Work) -> None:
    cluster: Cluster = work.subject
    cloud = cluster.workspace.cloud
    work.ask(lambda token: cloud.stop_nodes(cluster.tags, token=token))
    if left := [node for node in cloud.nodes(cluster.tags) if node.is_coming or node.state == NodeState.STOPPING]:
        work.wait(work.soon(max(1, cloud.look_in)), f"{len(left)} of {cluster.node_count} nodes still stop")
    with transaction.atomic():
        work.prove()
        cluster.nodes.exclude(state=Node.State.GONE).update(state=Node.State.STOPPED)
    work.log("All nodes have stopped. Their disks are kept.")


def bring_back(work: Work) -> None:
    """All its nodes run, know each other, and are no more than it has; whatever was begun with them."""
    make_keys(work)
    if Can.STORE in work.subject.can:
        write_document(work)
    for do in (ask_for_nodes, reach_nodes, introduce_nodes, drop_surplus):
        do(work)


def change_size(work: Work) -> None:
    cluster: Cluster = work.subject
    assert cluster.scale_to is not None
    work.memo.setdefault("before", cluster.node_count)
    work.save()
    _write_size(work, cluster.scale_to)


def take_back_size(work: Work) -> None:
    """As many nodes as before; those that were taken away are made anew."""
    if "before" in work.memo:
        _write_size(work, work.memo["before"])
        bring_back(work)


def _write_size(work: Work, nodes: int) -> None:
    cluster: Cluster = work.subject
    cluster.node_count = nodes
    with transaction.atomic():
        work.prove()
        cluster.save(update_fields=["node_count"])


def part_with_nodes(work: Work) -> None:
    """Nothing of them is left; a start makes them anew, under the same names."""
    cluster: Cluster = work.subject
    wait_until_gone(work, cluster)
    with transaction.atomic():
        work.prove()
        say_what_is_gone(work, cluster, [node.hostname for node in cluster.nodes.all()])
        cluster.nodes.update(
            state=Node.State.GONE,
            cloud_id="",
            address="",
            private_address="",
            door="",
            host_own="",
            via=None,
            seen=None,
        )  # fmt: skip


def look_what_is_there(work: Work) -> None:
    """Nothing is forgotten that the cloud still lists. One that does not answer cannot say so."""
    cluster: Cluster = work.subject
    try:
        left = [one for one in cluster.workspace.cloud.leftovers(cluster.tags) if not one.is_looked_after]
    except PortalError as error:
        work.log(f"The cloud does not say what is left: {error.message}")
        return
    if left:
        raise Refused(
            f"{cluster} cannot be forgotten: something of it is there.",
            evidence=", ".join(map(str, left)),
            advice="Delete the cluster instead; that takes away what is there.",
        )
    work.log("The cloud lists nothing of it.")


def forget(work: Work) -> None:
    cluster: Cluster = work.subject
    with transaction.atomic():
        work.prove()
        cluster.nodes.update(state=Node.State.GONE)
        forget_keys(cluster)


_QUIET = StepPlan(
    "quiet",
    "Let runs that have ended be cleaned up",
    let_runs_end,
    icon="bi-eraser",
    limit=timedelta(minutes=5),
    looks=True,
)
_HALT = StepPlan(
    "stop",
    "Stop the nodes",
    halt_nodes,
    bring_back,
    undo_title="Start the nodes again",
    why="their disks are kept",
    icon="bi-pause-circle",
)
_START = StepPlan("nodes", "Start the nodes", ask_for_nodes, why="those that are missing are made", icon="bi-hdd-stack")
_REACH = next(step for step in CREATE.steps if step.name == "reach")
_INTRODUCE = StepPlan(
    "introduce",
    "Introduce the nodes to each other",
    introduce_nodes,
    why="their addresses may be others now: the hostfile and the ssh configuration are written anew",
    icon="bi-diagram-3",
)
_TRY = StepPlan(
    "try",
    "Try a small MPI program on all nodes",
    try_mpi,
    write_document,
    why="only then the cluster is RUNNING",
    icon="bi-check2-all",
    patience=timedelta(minutes=2),
)
_LOST_PROGRAMS = "What runs on the nodes now: programs and terminals that people have started there"
_KEPT = ("What lies on the shared filesystem", "Jobs, runs and their output")

PAUSE = Plan(
    "clusters.pause",
    "Pause cluster",
    "paused",
    [_QUIET, _HALT],
    queue="provision",
    during=Status.PAUSING,
    needs=Can.PAUSE,
    begins={Status.RUNNING},
    alone=True,
    then={FINISHED: Status.PAUSED, FAILED: Status.FAILED, CANCELLED: Status.RUNNING},
    settle=note_end,
)

RESUME = Plan(
    "clusters.resume",
    "Resume cluster",
    "resumed",
    [
        StepPlan("keys", "Make keys that are missing", make_keys, icon="bi-key"),
        replace(_START, undo=halt_nodes, undo_title="Stop the nodes again, and keep their disks"),
        _REACH,
        _INTRODUCE,
        _TRY,
    ],
    queue="provision",
    during=Status.RESUMING,
    needs=Can.PAUSE,
    begins={Status.PAUSED},
    then={FINISHED: Status.RUNNING, FAILED: Status.FAILED, CANCELLED: Status.PAUSED},
    settle=note_end,
)

STOP = Plan(
    "clusters.stop",
    "Stop cluster",
    "stopped",
    [
        _QUIET,
        *CREATE.teardown(),
        StepPlan("gone", "Ask the cloud what is left", part_with_nodes, icon="bi-check2-all"),
    ],
    queue="teardown",
    during=Status.STOPPING,
    begins={Status.RUNNING, Status.PAUSED, Status.FAILED},
    alone=True,
    then={FINISHED: Status.STOPPED, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    undoes_on_cancel=False,
    destroys=("The nodes, and what is on their own disks", _LOST_PROGRAMS),
    gives_back=GIVEN_BACK,
    spares=("The cluster, with its name and settings: it can be started again", *_KEPT),
)

START = replace(
    CREATE,
    kind="clusters.start",
    title="Start cluster",
    participle="started",
    during=Status.RESTARTING,
    begins={Status.STOPPED},
    then={FINISHED: Status.RUNNING, FAILED: Status.FAILED, CANCELLED: Status.STOPPED},
)

RESTART = Plan(
    "clusters.restart",
    "Restart cluster",
    "restarted",
    [_QUIET, _HALT, _START, _REACH, _INTRODUCE, _TRY],
    queue="provision",
    needs=Can.PAUSE,
    during=Status.RESTARTING,
    begins={Status.RUNNING},
    alone=True,
    then={FINISHED: Status.RUNNING, FAILED: Status.FAILED, CANCELLED: Status.RUNNING},
    settle=note_end,
    destroys=(_LOST_PROGRAMS, "What is in the nodes' memory"),
    spares=("The nodes, their names and their own disks", *_KEPT),
)

SCALE = replace(
    REPAIR,
    kind="clusters.scale",
    title="Scale cluster",
    participle="scaled",
    steps=[
        StepPlan(
            "size",
            "Change the number of nodes",
            change_size,
            take_back_size,
            undo_title="As many nodes as before",
            icon="bi-sliders",
        ),
        *(replace(step, undo=None, undo_title="") for step in REPAIR.steps if step.name != "check"),
    ],
    during=Status.SCALING,
    needs=Can.SCALE,
    begins={Status.RUNNING, Status.PAUSED},  # of one that is PAUSED the nodes start, and run afterwards
    # What was begun is taken back first: then it has as many nodes as before, and they are well.
    then={FINISHED: Status.RUNNING, FAILED: Status.RUNNING, CANCELLED: Status.RUNNING, LEFT: Status.FAILED},
    undoes_on_cancel=True,
    undoes_on_failure=True,
)

# A task that goes on is broken off first, whatever it does; see `actions.delete_cluster`.
FORCE_DELETE = replace(
    DELETE,
    kind="clusters.force-delete",
    title="Delete cluster by force",
    begins=set(Status) - {Status.TERMINATING, Status.TERMINATED},
)

FORGET = Plan(
    "clusters.forget",
    "Forget cluster",
    "forgotten",
    [
        StepPlan("look", "Ask the cloud what is there", look_what_is_there, icon="bi-search"),
        StepPlan("forget", "Forget its nodes and keys", forget, icon="bi-eraser"),
    ],
    queue="teardown",
    during=Status.TERMINATING,
    begins={Status.FAILED},
    then={FINISHED: Status.TERMINATED, FAILED: Status.FAILED, CANCELLED: Status.FAILED},
    undoes_on_cancel=False,
    undoes=CREATE,
    destroys=("What the portal knows of its nodes, and its keys",),
    spares=("Whatever is there in a cloud that does not answer: nobody takes it away", *_KEPT),
)

# Of one that is TERMINATED, and of which something is there all the same.
ADOPT = replace(REPAIR, kind="clusters.adopt", title="Adopt cluster", participle="adopted", begins={Status.TERMINATED})

# What people can do with a cluster that belongs to a run: whatever else it is, its run decides.
OF_DEDICATED = (CREATE, REPAIR, DELETE, FORCE_DELETE, FORGET)

PLANS = (CREATE, REPAIR, PAUSE, RESUME, STOP, START, RESTART, SCALE, DELETE, FORCE_DELETE, FORGET, ADOPT)


def verb(plan: Plan) -> str:
    """What is done, as buttons and addresses call it."""
    return plan.kind.rpartition(".")[2]


def possible(cluster: Cluster) -> set[str]:
    """The verbs of what can be done to it now. Somebody else may be faster: then it is refused in words."""
    can = cluster.can
    return {
        verb(plan)
        for plan in PLANS
        if cluster.status in plan.begins
        and (plan in OF_DEDICATED or not cluster.dedicated)
        and not (plan.alone and cluster.occupied_by is not None)
        and (plan.needs is None or plan.needs in can)
    }
