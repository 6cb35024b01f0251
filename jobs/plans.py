"""How a run is started on its cluster, waited for, and its output kept.

The run belongs to the head node. The launch step starts it, and the watch process (`jobs/watch.py`) observes it and
writes down output and end; no worker is held meanwhile.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.timezone import now

from clusters import hostfile
from clusters.models import Cluster
from clusters.plans import home_files
from jobs import notebooks, record, rules
from jobs.dispatch import MOST_COLLECTING, MOST_UNUSED, dispatch
from jobs.models import Kind, Run
from jobs.repositories import where_it_is_now
from portal import detached, ssh
from portal.detached import Alive
from portal.errors import Passing, PortalError, Refused
from portal.prepared import reread
from portal.secrets import CannotDecrypt, unseal
from portal.tasks import keeping, live
from portal.tasks.ledger import Work
from portal.tasks.models import Output, Task, TaskStatus
from portal.tasks.plans import Plan, StepPlan
from portal.text import uuid_in

logger = logging.getLogger(__name__)

PROGRAMS = detached.Programs(Path(__file__).parent / "onnode", loads=("job",))
ANY_TIME = timedelta(days=36500)
_ROUNDS = 4  # of looking through the nodes for what a run left
STREAMS = {"o": "stdout", "e": "stderr", "s": "setup"}  # what a node calls them, of which it tells checksums


def launch(work: Work) -> None:
    """Start it on the head node. Called again after a crash or a lost answer, the node finds it and leaves it alone.

    Before the node is asked, the run is INPROGRESS and observed: whatever becomes of the answer, what runs is seen.
    """
    run: Run = work.subject
    cluster = run.cluster
    nodes = list(cluster.nodes.all())
    head = nodes[0]
    if refusal := next((node.refuses for node in cluster.workspace.cloud.nodes(cluster.tags) if node.refuses), ""):
        if cluster.dedicated and run.turn and now() - run.turn > MOST_UNUSED:
            raise Refused(
                f"{cluster.name} takes no run: {refusal}", advice="Run it again: then a cluster is made anew."
            )
        work.wait(30, f"{cluster.name} takes no run now: {refusal}")
    size = how_many_ranks(run)
    a_node = run.ranks_per_node or cluster.cores_per_node
    if run.started is None:
        with transaction.atomic():
            work.prove()
            begins = {"started": now(), "cores": size, "phase": "clone", "may_be_left": True}
            if not run.move(Run.Status.INPROGRESS, **begins, head_rank=head.rank, place=run.folder(head.shared)):
                raise Refused(f"The run is {run.badge.word} already.")
            places = {str(rank): rank // a_node for rank in range(size)}
            hosts = {"hosts": [node.hostname for node in nodes], "of": places}
            Output.objects.filter(pk=run.output_id).update(nodes=hosts)
            live.ring(live.WATCH_RUNS, *run.live_names())
    folder = run.place or run.folder(head.shared)
    home = home_files(cluster, nodes)
    listed = "hostfile"
    if run.ranks_per_node:
        listed = ".hostfile-of-run"
        home[listed] = hostfile.text(cluster, nodes, cores=a_node)
    started_by, workers = listed, {}
    if size == 1 and cluster.engine_version.spawns:
        # Hydra counts the rank itself: without a place more, the first worker could be on the second node.
        started_by = ".hostfile-of-spawner"
        home[started_by] = hostfile.text(cluster, nodes, more=1)
        workers = {"BODO_NUM_WORKERS": str(cluster.cores)}
    engine = cluster.engine_version.folder(head.shared)
    order = {
        "git_url": where_it_is_now(run.git_url),
        "reference": run.reference,
        **_words(run, folder),
        **_rights(run),
        "cores": size,
        "hostfile": f"{head.home}/{started_by}",
        "home": home,
        "engine": engine,
        "shared": head.shared,
        "scratch": f"{head.home}/.scratch",  # on the node's own disk: /tmp may be memory, and small
        "allow_this_machine": settings.GIT_FROM_THIS_MACHINE,
        "environment": {
            **workers,
            **run.environment,
            **cluster.environment,
            **(notebooks.environment(folder, engine, f"{head.home}/{started_by}") if run.kind == Kind.NOTEBOOK else {}),
            "COXSWAIN_RUN": str(run.uuid),
            "COXSWAIN_CLUSTER": cluster.name,
            "COXSWAIN_CORES": str(cluster.cores),
            "COXSWAIN_NODES": str(cluster.node_count),
            "COXSWAIN_HOSTFILE": f"{head.home}/{listed}",
            "COXSWAIN_SHARED": head.shared,
        },
    }
    try:
        # One call for all of it: every round trip is launch latency.
        detached.start(
            head.host,
            folder,
            argv=[folder, json.dumps(order)],
            program="job",
            programs=PROGRAMS,
            env={"COXSWAIN_RUN": str(run.uuid)},
            secret=_secrets(run),
            seconds=run.time_limit,
            alone=fence(head.home),
        )
    except detached.Busy as busy:
        make_way(work, busy.folder)
    Run.objects.filter(pk=run.pk).update(is_on_node=True)


def _words(run: Run, folder: str = "") -> dict[str, Any]:
    """What each rank becomes: the engine's Python, or a shell."""
    if run.kind == Kind.NOTEBOOK:
        words = notebooks.command(run.command, folder)
        return {"program": "python", "command": words, "notebook": True, "needs": notebooks.NEEDS}
    if run.kind == Kind.SHELL:
        return {"program": "/bin/sh", "command": ["-c", run.command]}
    return {"program": "python", "command": shlex.split(run.command)}


def _rights(run: Run) -> dict[str, str]:
    """What is told of those that nodes want where they read a bucket; the rights themselves the nodes have."""
    if not rules.is_bucket(run.git_url):
        return {}
    account = run.cluster.workspace.cloud_config.account
    return {"role": run.cluster.role, "policy": account.reading(rules.bucket_of(run.git_url))}


def how_many_ranks(run: Run) -> int:
    """By the cluster's real size. Raises `Refused` where it has not so many cores as were asked for."""
    cluster = run.cluster
    size: dict[str, Any] = {
        "nodes": cluster.node_count,
        "cores_per_node": cluster.cores_per_node,
        "where": cluster.name,
    }
    if why := rules.too_many_ranks(run.ranks, run.ranks_per_node, **size):
        Run.objects.filter(pk=run.pk).update(code="ranks")  # for what its task says of it, when that ends
        raise Refused(why, advice="Ask for fewer ranks, or choose a larger cluster.")
    if run.ranks_per_node:
        return run.ranks_per_node * cluster.node_count
    return run.ranks or (1 if Kind(run.kind).is_once else cluster.cores)


def fence(home: str) -> str:
    """The file on the head node that only one run at a time holds, whatever the portal knows of it."""
    return f"{home}/.run"


def make_way(work: Work, folder: str) -> None:
    """Something holds the head node that should have ended: an answer was lost, or a node that was away is back."""
    run: Run = work.subject
    other = _of_folder(run.cluster, folder)
    if other is not None and other.started and not other.is_finished:
        work.wait(1, f"{other} is on {run.cluster.name}")
    work.log(f"{other or 'A run that the portal does not know'} was still on {run.cluster.name}; ending it.")
    Run.objects.filter(pk=(other or run).pk).update(may_be_left=True)
    if silent := end_what_is_left(work, other or run):
        work.wait(2, f"{silent} does not answer")
    work.wait(0.3, f"ending what was left on {run.cluster.name}")


def _of_folder(cluster: Cluster, folder: str) -> Run | None:
    """The run of this cluster whose folder this is."""
    uuid = uuid_in(folder.rsplit("/", 1)[-1])
    return cluster.runs.filter(uuid=uuid).first() if uuid else None


def _secrets(run: Run) -> str:
    """What the node is told and may write nowhere: see `jobs/onnode/job.py`. Empty where there is nothing."""
    told = json.loads(_credential(run) or "{}")
    if run.job.secret_values:
        try:
            told["variables"] = json.loads(unseal(run.job, "secret_values"))
        except CannotDecrypt as error:
            Run.objects.filter(pk=run.pk).update(code="secrets")  # for what its task says of it, when that ends
            raise Refused(
                "The job's secret variables cannot be decrypted with this portal's keys.",
                advice="Give them their values again, or put back the key that is missing in PORTAL_ENCRYPTION_KEYS.",
            ) from error
    return json.dumps(told) if told else ""


def _credential(run: Run) -> str:
    """As it is now; for no other server than the one that it is for, which that of an earlier run may have been."""
    job = run.job
    saved = job.git_credential
    if not job.signs_in_at or not rules.same_server(run.git_url, job.signs_in_at):
        return ""
    if saved and saved.deleted:
        Run.objects.filter(pk=run.pk).update(code="credential")  # for what its task says of it, when that ends
        raise Refused(
            f"The Git credential {saved}, which the job signs in with, was deleted.",
            advice="Choose another one for the job, or give it a password or access token of its own.",
        )
    try:
        if saved:
            told = {"username": saved.username, "password": unseal(saved, "secret")}
        else:
            told = {"username": job.git_username, "password": unseal(job, "git_password")}
    except CannotDecrypt as error:
        Run.objects.filter(pk=run.pk).update(code="credential")
        of, whom = (f"of {saved}", str(saved)) if saved else ("of the job's repository", "the job")
        raise Refused(
            f"The password {of} cannot be decrypted with this portal's keys.",
            advice=f"Give {whom} its password again, or put back the key that is missing in PORTAL_ENCRYPTION_KEYS.",
        ) from error
    return json.dumps(told)


def stop(work: Work) -> None:
    """TERM, five seconds later KILL, to its process group; then whatever is of it, on every node."""
    run: Run = work.subject
    reread(run)
    if run.started is None:
        return
    head, folder = run.kept_at()
    began = work.memo.setdefault("stopping_since", now().timestamp())
    waited = now().timestamp() - began
    try:
        if run.ended is None and not run.observed:
            name = "TERM" if waited < 5 else "KILL"
            asked = work.memo.setdefault("asked", [])
            if name not in asked:
                asked.append(name)
                lives = detached.send_signal(head.host, folder, name)
                if lives == Alive.NO and not detached.look(head.host, folder)[1]:
                    Run.objects.filter(pk=run.pk).update(observed=True)  # it never began
                    return
            if waited < 8:
                work.wait(0.3, "asked to end" if name == "TERM" else "killed")
        if silent := end_what_is_left(work, run):
            raise Passing(f"{silent} does not answer.")
    except Passing as error:
        if waited < 30:
            raise
        work.log(f"{error.message} What runs there is ended when it answers, before anything else is started there.")
    reread(run)
    if not run.observed and waited < 20:
        work.wait(0.3, "waiting for the end of its output")
    Run.objects.filter(pk=run.pk).update(observed=True)


def wait_for_end(work: Work) -> None:
    """The watch process writes down the end, and wakes this. What it does meanwhile is in the run, not in the step."""
    run: Run = work.subject
    reread(run)
    if run.ended is None:
        work.wait(60, "")


def keep(work: Work) -> None:
    run: Run = work.subject
    reread(run)
    if run.started and not work.memo.get("looked") and run.cluster.nodes.exclude(address="").exists():
        work.memo["looked"] = True
        end_what_is_left(work, run)
        leave_cluster(run)  # before the checksums, which may take long: another run may wait for it
        if why := record.keep(run):
            work.log(f"Which packages it had is not known: {why}")
    if run.started and run.kind == Kind.NOTEBOOK and not work.memo.get("notebook"):
        _keep_notebook(work, run)
    is_late = run.cluster.dedicated and run.ended and now() - run.ended > MOST_COLLECTING
    if run.started and not run.observed and not is_late:
        work.wait(0.3, "waiting for the node's checksums")
    if run.started and run.digests is None:
        work.log("The head node has told no checksums: the end of the output may be missing.")
    sums = {STREAMS[name]: digest for name, digest in run.digests.items() if name in STREAMS} if run.digests else None
    work.save()  # what was said up to now belongs to what is kept
    try:
        keeping.keep(run.output, sums, lives=work.lives)
    except Passing as error:  # the watch process tries again, and compares then; the nodes need not wait for that
        work.log(f"{error.message} All of it is in the database, and is tried again from time to time.")
    reread(stored := run.output)
    if stored.agrees is False:
        raise PortalError(
            "The stored output differs from the files on the head node.",
            evidence=json.dumps({"stored": stored.digests, "node": sums}),
            advice="The files are left on the node; compare them before deleting the cluster.",
        )


def _keep_notebook(work: Work, run: Run) -> None:
    """Before its folder is removed. It is not waited for longer than a cluster of the run's own stays."""
    why = "The executed notebook is not kept: the nodes are gone."
    if run.cluster.nodes.exclude(address="").exists():
        try:
            why = notebooks.keep(run)
        except Passing as error:
            if run.ended is None or now() - run.ended < MOST_COLLECTING:
                work.wait(2, error.message)
            why = f"{error.message} The executed notebook is not kept."
        except Refused as error:
            why = f"{error.message} The executed notebook is not kept."
    work.memo["notebook"] = True
    if why:
        work.log(why)


def end_what_is_left(work: Work, run: Run) -> str:
    """Look through the nodes of its cluster, once, and end what is of it. A node that does not answer, if any."""
    if not Run.objects.filter(pk=run.pk, may_be_left=True).exists():
        return ""
    silent, ended = sweep(run, but=work.subject)
    for hostname, count in ended.items():
        were = "process of {} was" if count == 1 else "processes of {} were"
        work.log(f"{count} {were.format(run)} left on {hostname}; ended.")
    return silent


def sweep(run: Run, *, but: Run | None = None) -> tuple[str, dict[str, int]]:
    """End what is left of a run on the nodes of its cluster: a node that did not answer, and how many were ended where.

    While no other run than `but` is on the head node, the nodes are cleared of whatever is one, however it calls
    itself: what a run says of its own end may be forged. And again while something was found: what was left on one
    node may have started more on another meanwhile.
    """
    head, *others = list(run.cluster.nodes.all())
    on_it = run.cluster.runs.unfinished().filter(started__isnull=False).exclude(pk__in=(run.pk, (but or run).pk))
    silent, ended = "", Counter[str]()
    for _ in range(_ROUNDS):
        # Each time: somebody else may look for the same, have found all of it, and let the next run begin.
        alone = "" if on_it.exists() else fence(head.home)
        answers = [
            *detached.sweep([head.host], str(run.uuid), alone=alone, others=bool(alone)),
            *detached.sweep([node.host for node in others], str(run.uuid), others=bool(alone)),
        ]
        found = Counter[str]()
        for node, answer in zip([head, *others], answers, strict=True):
            if isinstance(answer, PortalError) or answer.status or not answer.text.isdecimal():
                silent = silent or node.hostname
            else:
                found[node.hostname] += int(answer.text)
        ended += found
        if not +found or silent:
            break
    if not silent:
        Run.objects.filter(pk=run.pk).update(may_be_left=False)
    return silent, dict(ended)


def clean_up(work: Work) -> None:
    """No process and no folder of it stays on the nodes. What was fetched of its repository does, for the next run."""
    run: Run = work.subject
    reread(run)
    if run.started is None:
        return
    if not run.cluster.nodes.exclude(address="").exists():
        return
    is_gone = Cluster.objects.get(pk=run.cluster_id).status in Cluster.DELETED
    if (silent := end_what_is_left(work, run)) and not is_gone:
        work.log(f"{silent} does not answer. What runs there is ended when it does, before anything else is started.")
    try:
        remove_folder(run)
    except Passing as error:
        if is_gone:
            work.log("The run's folder stays on the shared filesystem: its cluster is deleted.")
        else:
            work.log(f"{error.message} The run's folder stays until the node answers.")


def remove_folder(run: Run) -> None:
    """From the nodes; where the stored output is not what the node says it was, it stays, to be compared."""
    head, folder = run.kept_at()
    if Output.objects.get(pk=run.output_id).agrees is not False:
        place = shlex.quote(folder)
        # programs of it may have closed folders to themselves
        ssh.run(head.host, f"rm -rf {place} 2> /dev/null || {{ chmod -R u+rwx {place}; rm -rf {place}; }}")


def settle(task: Task) -> None:
    """The watch process writes how a run ended; what it has not seen to its end has ended as its task has."""
    run: Run = task.subject
    reread(run)
    ended = run.ended or now()
    if task.status == TaskStatus.CANCELLED:
        who = f" by {run.cancelled_by}" if run.cancelled_by else ""
        is_end = run.move(Run.Status.CANCELLED, ended=ended, cause=f"Cancelled{who}.", evidence="", advice="", code="")
    elif task.status == TaskStatus.FAILED:
        words = {"cause": task.cause, "evidence": task.evidence, "advice": task.advice}
        is_end = run.move(Run.Status.FAILED, ended=ended, **words)
    else:
        is_end = run.is_finished
    if not is_end:
        logger.info("%s was %s before its task was %s", run, run.status, task.status)
    leave_cluster(run)


@transaction.atomic
def leave_cluster(run: Run) -> None:
    """Whatever was on the nodes has ended: the next one may begin, or a cluster of its own be ended."""
    if run.cluster.release(run.uuid, used=True):
        dispatch(run.cluster_id)
    if run.cluster.dedicated:
        live.ring(live.WATCH_WAITING)


RUN = Plan(
    "jobs.run",
    "Run",
    "run",
    [
        StepPlan(
            "launch",
            "Start on the head node",
            launch,
            stop,
            undo_title="End the run",
            why="its source is cloned, and what requirements.txt names is installed",
            icon="bi-play",
            limit=ANY_TIME,
        ),
        StepPlan(
            "run",
            "Run",
            wait_for_end,
            why="each line of its output live, with its rank",
            icon="bi-cpu",
            limit=ANY_TIME,
            looks=True,
        ),
        StepPlan(
            "keep",
            "Keep the output",
            keep,
            why="compared byte for byte with the node's",
            icon="bi-archive",
            limit=ANY_TIME,
            always=True,
        ),
        StepPlan(
            "clean",
            "Clean up on the nodes",
            clean_up,
            why="the run's folder goes: what is to stay belongs onto the shared filesystem, at $COXSWAIN_SHARED",
            icon="bi-eraser",
            always=True,
        ),
    ],
    queue="launch",
    settle=settle,
    undoes_on_failure=True,
)
