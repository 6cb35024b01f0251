"""How a run is started on its cluster, waited for, and its output kept.

The run belongs to the head node. The launch step starts it, and the watch process (`jobs/watch.py`) observes it and
writes down output and end; no worker is held meanwhile.
"""

from __future__ import annotations

import json
import shlex
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils.timezone import now

from clusters.models import Cluster
from jobs.models import Job, Run
from portal import detached, ssh
from portal.clouds.errors import Passing, PortalError, Refused
from portal.secrets import CannotDecrypt, unseal
from portal.tasks import ledger, live, output
from portal.tasks.ledger import Plan, StepPlan, Work
from portal.tasks.models import Output, Task, TaskStatus

_PROGRAM = detached.Program(Path(__file__).parent / "onnode" / "job.py")
ANY_TIME = timedelta(days=36500)


def wait_for_cluster(work: Work) -> None:
    """Until the cluster runs and no earlier run is on it: one at a time, in the order in which they were asked for."""
    run: Run = work.subject
    cluster = run.cluster
    if cluster.status in (Cluster.Status.FAILED, Cluster.Status.TERMINATING, Cluster.Status.TERMINATED):
        raise Refused(
            f"{cluster.name} is {cluster.badge.word}.",
            advice="Repair the cluster or choose another one, and run the job again.",
        )
    if cluster.status != Cluster.Status.RUNNING:
        work.wait(2, f"{cluster.name} is {cluster.badge.word}")
    earlier = cluster.runs.unfinished().filter(pk__lt=run.pk).order_by("pk").first()
    if earlier:
        work.wait(5, f"{earlier} is before it on {cluster.name}")


def launch(work: Work) -> None:
    """Start it on the head node. Called again after a crash, it finds the folder and leaves it alone."""
    run: Run = work.subject
    cluster = run.cluster
    head = cluster.nodes.get(rank=0)
    folder = run.folder(head.shared)
    order = {
        "git_url": run.git_url,
        "reference": run.reference,
        "command": shlex.split(run.command),
        "cores": cluster.cores,
        "hostfile": f"{head.home}/hostfile",
        "engine": cluster.engine_folder,
        "shared": head.shared,
        "allow_this_machine": settings.GIT_FROM_THIS_MACHINE,
        "environment": {
            **cluster.engine_version.environment,
            "COXSWAIN_RUN": str(run.uuid),
            "COXSWAIN_CLUSTER": cluster.name,
            "COXSWAIN_CORES": str(cluster.cores),
            "COXSWAIN_NODES": str(cluster.node_count),
        },
    }
    # One call for all of it: every round trip is launch latency.
    detached.start(
        head.host,
        head.shared,
        folder,
        argv=[folder],
        program=_PROGRAM,
        env={"COXSWAIN_RUN": str(run.uuid)},
        files={"job.json": json.dumps(order)},
        secret=_credential(run.job),
    )
    with transaction.atomic():
        work.prove()
        # The source comes first; what the node says of it later is written down by the watch process.
        run.move(Run.Status.INPROGRESS, started=now(), cores=cluster.cores, phase="clone")
        live.ring(live.WATCH, *run.live_names())


def _credential(job: Job) -> str:
    if not job.git_password:
        return ""
    try:
        return json.dumps({"username": job.git_username, "password": unseal(job, "git_password")})
    except CannotDecrypt as error:
        raise Refused(
            "The password of the job's repository cannot be decrypted with this portal's keys.",
            advice="Give the job its password again, or put back the key that is missing in PORTAL_ENCRYPTION_KEYS.",
        ) from error


def stop(work: Work) -> None:
    """TERM, five seconds later KILL, to its process group; then whatever carries its mark, on every node."""
    run: Run = work.subject
    head = run.cluster.nodes.get(rank=0)
    folder = run.folder(head.shared)
    began = work.memo.setdefault("stopping_since", now().timestamp())
    waited = now().timestamp() - began
    try:
        name = "TERM" if waited < 5 else "KILL"
        if name == "KILL" or not work.memo.get("asked"):
            left = detached.send_signal(head.host, head.shared, folder, name)
            work.memo["asked"] = True
        else:
            left = detached.look(head.host, folder)[0] is None
        if left and waited < 8:
            work.wait(0.5, "asked to end" if name == "TERM" else "killed")
        sweep(work)
    except Passing as error:
        if waited < 30:
            raise
        work.log(f"{error.message} What ran there cannot be ended from here.")
    run.refresh_from_db()
    if run.started and not run.observed and waited < 20:
        work.wait(0.5, "waiting for the end of its output")
    if run.started:
        Run.objects.filter(pk=run.pk).update(observed=True)
    keep(work)
    clean_up(work)


def wait_for_end(work: Work) -> None:
    """The watch process writes down the end, and wakes this."""
    run: Run = work.subject
    run.refresh_from_db()
    if run.ended is None:
        work.wait(60, {"clone": "cloning the source", "packages": "installing packages"}.get(run.phase, "running"))


def keep(work: Work) -> None:
    run: Run = work.subject
    run.refresh_from_db()
    if run.started and not run.observed:
        work.wait(0.3, "waiting for the node's checksums")
    expected = {"out": "stdout", "err": "stderr", "setup": "setup"}
    sums = {expected[name]: digest for name, digest in run.digests.items()} if run.digests else None
    work.save()  # what was said up to now belongs to what is kept
    output.compact(run.output, sums)
    stored = Output.objects.get(pk=run.output_id)
    if stored.agrees is False:
        raise PortalError(
            "The stored output differs from the files on the head node.",
            evidence=json.dumps({"stored": stored.digests, "node": sums}),
            advice="The files are left on the node; compare them before deleting the cluster.",
        )


def sweep(work: Work) -> None:
    run: Run = work.subject
    nodes = list(run.cluster.nodes.all())
    answers = ssh.run_on_all([node.host for node in nodes], detached.sweep_command(nodes[0].shared, run.mark))
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, PortalError):
            work.log(f"{node.hostname} does not answer and was not looked through.")
        elif answer.text not in ("", "0"):
            work.log(f"{answer.text} processes were left on {node.hostname}; killed.")


def clean_up(work: Work) -> None:
    """No process and no folder of it stays on the nodes. What was fetched of its repository does, for the next run."""
    run: Run = work.subject
    head = run.cluster.nodes.get(rank=0)
    try:
        sweep(work)
        ssh.run(head.host, f"rm -rf {shlex.quote(run.folder(head.shared))}")
    except Passing as error:
        work.log(f"{error.message} The run's folder stays until the cluster or workspace is deleted.")


def begin(task: Task) -> None:
    """NEW until it really starts on the node."""


def settle(task: Task) -> None:
    run: Run = task.subject
    if task.status == TaskStatus.CANCELLED:
        run.move(Run.Status.CANCELLED, ended=run.ended or now())
    elif task.status == TaskStatus.FAILED:
        run.move(
            Run.Status.FAILED, ended=run.ended or now(), cause=task.cause, evidence=task.evidence, advice=task.advice
        )
    wake_next(run)


def wake_next(run: Run) -> None:
    """The run that waits for this one's cluster, if there is one."""
    following = run.cluster.runs.filter(status=Run.Status.NEW).exclude(pk=run.pk).order_by("pk").first()
    if following and (task := following.last_task):
        ledger.wake(task.pk)


RUN = Plan(
    [
        StepPlan("cluster", "Wait for the cluster", wait_for_cluster, limit=ANY_TIME, looks=True),
        StepPlan("launch", "Start on the head node", launch, undo=stop),
        StepPlan("run", "Run", wait_for_end, limit=ANY_TIME, looks=True),
        StepPlan("keep", "Keep the output", keep, limit=ANY_TIME),
        StepPlan("clean", "Clean up on the nodes", clean_up),
    ],
    queue="launch",
    begin=begin,
    settle=settle,
)
