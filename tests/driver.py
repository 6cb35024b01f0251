"""Runs beside a portal that is up, with its settings: does what its pages do, and tells what its database says."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncssh
import django

django.setup()

import redis  # noqa: E402
from allauth.account.models import EmailAddress  # noqa: E402
from allauth.mfa.totp.internal import auth as totp  # noqa: E402
from allauth.socialaccount.models import SocialAccount  # noqa: E402
from allauth.usersessions.models import UserSession  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.sessions.models import Session  # noqa: E402
from django.db import connection, connections  # noqa: E402
from django.db.models import F  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils.timezone import now  # noqa: E402

from accounts.actions import create_first_administrator, invite_people  # noqa: E402
from accounts.models import AuditEvent, Membership, Organization, User  # noqa: E402
from clusters import actions, roles  # noqa: E402
from clusters.actions import create_cluster, delete_cluster, pause_cluster, repair_cluster, resume_cluster  # noqa: E402
from clusters.models import Cluster, EngineVersion, InstanceRole  # noqa: E402
from clusters.specification import Specification  # noqa: E402
from jobs import repositories  # noqa: E402
from jobs.actions import Credential, cancel_run, create_job, delete_job, start_run  # noqa: E402
from jobs.cron import Cron  # noqa: E402
from jobs.models import Job, Run, Schedule  # noqa: E402
from jobs.schedules import create_schedule, delete_schedule  # noqa: E402
from portal import background, clouds, ssh  # noqa: E402
from portal.clouds.machines import certificates  # noqa: E402
from portal.clouds.machines.models import Computer, Pool  # noqa: E402
from portal.errors import PortalError  # noqa: E402
from portal.sessions import SessionKey  # noqa: E402
from portal.tasks import keeping, ledger, live, output  # noqa: E402
from portal.tasks.leases import Lease, WatchProcess  # noqa: E402
from portal.tasks.models import Output, Segment, Step, Stream, Task  # noqa: E402
from tests.clusters.market import MarketAccount, MarketCloud  # noqa: E402
from tests.running import until  # noqa: E402
from workspaces import aws, listings, pools  # noqa: E402
from workspaces.actions import create_cloud_config, create_workspace, delete_workspace  # noqa: E402
from workspaces.models import CloudConfig, Listing, Workspace, WorkspaceMember  # noqa: E402

_connections = ssh.Connections()
EMAIL, PASSWORD = "alice@example.org", "correct horse battery staple"


def setup():
    """alice and her organization with this computer."""
    user = User.objects.filter(email=EMAIL).first() or create_first_administrator(
        email=EMAIL, name="Alice", password=PASSWORD, organization="Harbor Analytics"
    )
    organization = Organization.objects.earliest("pk")
    if not organization.cloud_configs.exists():
        create_cloud_config(organization, name="This computer", kind=CloudConfig.Kind.LOCAL, by=user)
    return {"email": EMAIL, "password": PASSWORD}


def make_pool(computers, user, base, name="desks"):
    """A cloud configuration of own machines with a pool of these, confirmed and checked. The line to be pasted."""
    organization = Organization.objects.earliest("pk")
    config = create_cloud_config(organization, name="Own machines", kind=CloudConfig.Kind.MACHINES, by=alice())
    pool = Pool(account=config.uuid, name=name, user=user, base=base)
    certificates.new_authority(pool)
    pool.save()
    size = {"cores": 2, "vcpus": 2, "memory_gib": 3.8, "architecture": "x86_64"}
    for one in computers:
        Computer.objects.create(pool=pool, **one, **size, state=Computer.State.READY)
    return pool.authorized_key


def open_pool(addresses, user, base, name="desks"):
    """alice's own machines, as she types them: a pool with computers whose keys are to be confirmed."""
    organization = Organization.objects.earliest("pk")
    config = create_cloud_config(organization, name=f"The {name}", kind=CloudConfig.Kind.MACHINES, by=alice())
    pool = pools.create_pool(config, name=name, user=user, base=base, by=alice(), uuid=uuid4())
    pools.add_computers(config, pool, [(address, 22) for address in addresses], by=alice())
    return {"config": str(config.uuid), "pool": str(pool.uuid), "line": pool.authorized_key}


def keys_shown(pool):
    """The fingerprints of those that are to be confirmed, by address."""
    rows = Computer.objects.filter(pool__uuid=pool, host_public="")
    return {one.address: one.fingerprint_shown for one in rows}


def confirm_keys(pool, keys):
    """`keys`: fingerprints by address."""
    pool = Pool.objects.get(uuid=pool)
    seen = [(one.uuid, keys[one.address]) for one in pool.computers.all()]
    pools.confirm_keys(CloudConfig.objects.get(uuid=pool.account), pool, seen, by=alice())


def accept_key(pool, name, fingerprint):
    """The new key of one that shows another one."""
    (computer,) = [one for one in Computer.objects.filter(pool__uuid=pool) if str(one) == name]
    config = CloudConfig.objects.get(uuid=computer.pool.account)
    pools.accept_new_key(config, computer, fingerprint, by=alice())


def task_said(cluster):
    """What its last task has printed."""
    task = Cluster.objects.get(uuid=cluster).last_task
    return b"".join(output.stream_bytes(task.output, output.Filter.parse(task.output, stream=""))).decode()


def check_pool(pool):
    """The button of its page."""
    pool = Pool.objects.get(uuid=pool)
    pools.check_now(CloudConfig.objects.get(uuid=pool.account), pool)


def is_checked(pool):
    pool = Pool.objects.get(uuid=pool)
    return pool.checked is not None and pool.check_asked is None


def packages_of_plain_mpi():
    return [str(package) for package in EngineVersion.objects.get(kind="mpi").packages]


def stand(pool=""):
    """How the computers of a pool stand, or all."""
    rows = Computer.objects.filter(pool__uuid=pool) if pool else Computer.objects.all()
    return [
        {
            "name": str(one),
            "state": one.state,
            "subject": one.subject,
            "leaving": one.is_leaving,
            "failing": [line["name"] for line in one.failing],
            "history": list(one.events.values_list("words", flat=True)),  # the newest first
        }
        for one in rows.order_by("pk")
    ]


def config():
    return str(CloudConfig.objects.earliest("pk").uuid)


def alice():
    return User.objects.get(email=EMAIL)


def make_people(names, locked=()):
    """Members of alice's organization, with her password; the locked ones last signed in 100 days ago."""
    organization = Organization.objects.earliest("pk")
    for name in names:
        user = User.objects.create_user(f"{name}@example.org", PASSWORD, name=name.title())
        EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
        Membership.objects.create(organization=organization, user=user, role="member")
        if name in locked:
            past = now() - timedelta(days=100)
            User.objects.filter(pk=user.pk).update(last_login=past, date_joined=past)


def add_app(email):
    """An authenticator app of this person: its secret."""
    secret = totp.generate_totp_secret()
    totp.TOTP.activate(User.objects.get(email=email), secret)
    return secret


def set_zone(email, zone):
    User.objects.filter(email=email).update(time_zone=zone)


def invite(email, workspace=None, role="user"):
    """The path of the link."""
    place = Workspace.objects.get(uuid=workspace) if workspace else None
    options = {"workspace": place, "workspace_role": role} if place else {}
    (invited,) = invite_people(Organization.objects.earliest("pk"), [email], by=alice(), **options)
    return f"/invitations/{invited.token}/"


def account(email):
    """What is known of an account; nothing where there is none."""
    user = User.objects.filter(email=email).first()
    if user is None:
        return None
    return {
        "name": user.name,
        "password": user.has_usable_password(),
        "single_sign_on": SocialAccount.objects.filter(user=user).count(),
        "sessions": UserSession.objects.filter(user=user).count(),
        "organizations": list(user.memberships.values_list("organization__name", flat=True)),
        "signed_in": list(AuditEvent.objects.filter(actor=user.uuid, verb="signed in").values_list("how", flat=True)),
        "verbs": list(AuditEvent.objects.filter(subject=user.uuid).values_list("verb", flat=True)),
    }


def give_role(workspace, email, role):
    """In a workspace; none takes it away."""
    workspace, user = Workspace.objects.get(uuid=workspace), User.objects.get(email=email)
    WorkspaceMember.objects.filter(workspace=workspace, user=user).delete()
    if role:
        WorkspaceMember.objects.create(workspace=workspace, user=user, role=role)


def require_second_factor(required=True):
    Organization.objects.update(second_factor_required=required)


def open_account(account, region, key, secret):
    """alice's account in AWS, made with an access key; it finishes itself."""
    organization = Organization.objects.earliest("pk")
    draft = {"draft": {"account": account, "region": region}}
    config = create_cloud_config(
        organization,
        name="Ours in AWS",
        kind=CloudConfig.Kind.AWS,
        by=alice(),
        options=draft,
        credentials=str(uuid4()),
    )
    aws.make_with_key(config, key=key, secret=secret, token="", by=alice())
    return str(config.uuid)


def config_badge(config):
    found = CloudConfig.objects.get(uuid=config)
    return found.badge.word, found.findings.get("trouble", ""), [one["name"] for one in found.missing_permissions]


def bucket_of(config):
    return CloudConfig.objects.get(uuid=config).options["bucket"]


def make_workspace(name="lab", choices=None, **of):
    """In a cloud configuration that is so; the first one."""
    organization = Organization.objects.earliest("pk")
    config = organization.cloud_configs.filter(**of).earliest("pk")
    workspace = create_workspace(
        organization,
        name=name,
        cloud_config=config,
        region=config.options.get("region") or config.account.regions()[0].name,
        by=alice(),
        choices=choices or {},
    )
    return str(workspace.uuid)


def register_role(workspace, arn, name="reader"):
    return str(roles.register(Workspace.objects.get(uuid=workspace), name=name, arn=arn, by=alice()).uuid)


def make_cluster(workspace, name="tide", nodes=3, cores=2, auto_repair=False, role=""):
    workspace = Workspace.objects.get(uuid=workspace)
    if workspace.cloud_config.kind in CloudConfig.FAR:  # the watch process asks for its list, as for pages
        listed = Listing.objects.filter(cloud_config=workspace.cloud_config, region=workspace.region)
        until(lambda: listed.exclude(read=None).exists(), seconds=180, what="its instance types")
        offers = listings.types(listed.get())
    else:
        offers = workspace.cloud_config.account.instance_types(workspace.region)
    offer = next((offer for offer in offers if offer.cores == cores), offers[0])
    cluster = create_cluster(
        workspace,
        name=name,
        instance_type=offer,
        node_count=nodes,
        engine_version=EngineVersion.objects.get(kind="mpi"),
        auto_repair=auto_repair,
        role=role,
        by=alice(),
    )
    return str(cluster.uuid)


def pause(cluster):
    pause_cluster(Cluster.objects.get(uuid=cluster), by=alice())


def resume(cluster):
    resume_cluster(Cluster.objects.get(uuid=cluster), by=alice())


def choices(name):
    """What was chosen for the cluster of this name."""
    cluster = Cluster.objects.get(name=name)
    return {
        "nodes": cluster.node_count,
        "description": cluster.description,
        "auto_pause": cluster.auto_pause,
        "auto_shutdown": cluster.auto_shutdown,
        "tags": cluster.extra_tags,
    }


def word_of(cluster):
    """What its page says."""
    return Cluster.objects.get(uuid=cluster).badge.word


def make_job(workspace, cluster, git_url, command, name="job", reference="", credential=None):
    job, run = create_job(
        Workspace.objects.get(uuid=workspace),
        name=name,
        cluster=Cluster.objects.get(uuid=cluster),
        git_url=git_url,
        reference=reference,
        command=command,
        by=alice(),
        credential=Credential(*credential) if credential else None,
    )
    return {"job": str(job.uuid), "run": str(run.uuid)}


def make_dedicated(
    workspace, git_url, command, name, seconds=0.0, nodes=2, instance_type="local.1", credential=None, **more
):
    """A job with a cluster of its own, whose first run begins in so many seconds."""
    workspace = Workspace.objects.get(uuid=workspace)
    offers = {one.name: one for one in workspace.cloud_config.account.instance_types(workspace.region)}
    engine = EngineVersion.objects.get(kind="mpi")
    kind = offers.get(instance_type) or replace(next(iter(offers.values())), name=instance_type)
    wanted = Specification(kind, nodes, (engine.kind, engine.version))
    job, run = create_job(
        workspace,
        name=name,
        dedicated=wanted.kept,
        git_url=git_url,
        reference="",
        command=command,
        due=now() + timedelta(seconds=seconds),
        credential=Credential(*credential) if credential else None,
        **more,
        by=alice(),
    )
    return {"job": str(job.uuid), "run": str(run.uuid), "cluster": str(run.cluster.uuid)}


def bring_near(run, seconds):
    """A run that waits for its time has only so many left."""
    near = now() + timedelta(seconds=seconds)
    assert Run.objects.filter(uuid=run, status="new", due__gt=near).update(due=near), "it was nearer"


def drop_job(job):
    return delete_job(Job.objects.get(uuid=job), by=alice())


def make_schedule(job):
    """Each minute, and the last one is its next time."""
    made = create_schedule(Job.objects.get(uuid=job), Cron("* * * * *", "UTC"), by=alice(), overlap="queue")
    Schedule.objects.filter(pk=made.pk).update(next_at=now().replace(second=0, microsecond=0))
    return str(made.uuid)


def times_of(schedule):
    """What became of each: its time, in what runs, and whether more come."""
    found = Schedule.objects.get(uuid=schedule)
    return [[one.due.isoformat(), one.outcome, one.run and str(one.run.uuid)] for one in found.firings.order_by("due")]


def drop_schedule(schedule):
    delete_schedule(Schedule.objects.get(uuid=schedule), by=alice())


def run_again(job, command=None):
    job = Job.objects.get(uuid=job)
    if command is not None:
        job.command = command
        job.save()
    return str(start_run(job, by=alice()).uuid)


def let_wait(workspace, count):
    """So many runs, for the one cluster of which nothing will come while they are there."""
    place = Workspace.objects.get(uuid=workspace)
    engine = EngineVersion.objects.filter(kind="mpi").first()
    cluster = Cluster.objects.create(
        workspace=place, name="never", engine_version=engine, status="inprogress", node_count=1, cores_per_node=1
    )
    job = Job.objects.create(workspace=place, cluster=cluster, name="never", git_url="https://git.test/a", command="a")
    outputs = Output.objects.bulk_create(Output() for _ in range(count))
    Run.objects.bulk_create(
        Run(workspace=place, job=job, cluster=cluster, number=number, output=output)
        for number, output in enumerate(outputs, 1)
    )
    return str(job.uuid)


def forget_waiting(job):
    runs = Run.objects.filter(job__uuid=job)
    outputs = list(runs.values_list("output", flat=True))
    runs.delete()
    cluster = Job.objects.get(uuid=job).cluster
    Job.objects.filter(uuid=job).delete()
    cluster.delete()
    Output.objects.filter(pk__in=outputs).delete()


def publish(name):
    return str(repositories.publish(name))


def state(kind, uuid):
    model = {"workspace": Workspace, "cluster": Cluster, "role": InstanceRole, "run": Run}[kind]
    row = model.objects.get(uuid=UUID(uuid))
    task = row.last_task  # None: a run that waits for its cluster
    row.refresh_from_db()  # after its task: what has ended with that has its status by then
    return {
        "status": row.status,
        "cause": getattr(row, "cause", "") or (task.cause if task else ""),
        "evidence": getattr(row, "evidence", "") or (task.evidence if task else ""),
        "task": str(task.uuid) if task else "",
        "task_status": task.status if task else "",
        "task_cause": task.cause if task else "",
        "resumed": task.resumed if task else 0,
        "steps": {step.name: [step.status, step.detail, step.deaths] for step in task.steps.all()} if task else {},
    }


def run_state(run):
    row = Run.objects.get(uuid=run)
    stored = row.output
    return {
        **state("run", run),
        "phase": row.phase,
        "commit": row.commit,
        "exit_status": row.exit_status,
        "started": row.started and row.started.timestamp(),
        "ended": row.ended and row.ended.timestamp(),
        "silent": row.silent_since is not None,
        "output": str(stored.uuid),
        "head": stored.head,
        "stdout": stored.stdout,
        "stderr": stored.stderr,
        "output_ended": stored.ended,
        "kept": stored.is_kept,
        "agrees": stored.agrees,
        "digests": row.digests,
    }


def job_of(run):
    return str(Run.objects.get(uuid=run).job.uuid)


def busy(job):
    return Run.objects.filter(job__uuid=job).unfinished().exists() or Task.objects.unfinished().exists()


def unfinished():
    return Task.objects.unfinished().count() + Run.objects.unfinished().count()


def held_by(pids):
    """What processes hold, alive or dead: tasks and leases."""
    names = [f"{socket.gethostname()}:{pid}" for pid in pids]
    lives = WatchProcess.objects.filter(name__in=names).values("pk")
    leases = Lease.objects.filter(holder__in=lives).values_list("thing", flat=True)
    tasks = Task.objects.unfinished().filter(worker__in=names, lease__isnull=False).values_list("title", flat=True)
    return [*leases, *tasks]


def power_off():
    """Every node of this computer, the hard way."""
    for config in CloudConfig.objects.all():
        config.cloud("").power_off()


def read_output(run, stream="stdout", limit=200_000):
    stored = Run.objects.get(uuid=run).output
    data = b"".join(output.stream_bytes(stored, output.Filter.parse(stored, stream=stream or "")))
    return {"size": len(data), "sha256": sha256(data).hexdigest(), "text": data[:limit].decode(errors="replace")}


def cancel(run):
    return cancel_run(Run.objects.get(uuid=run), by=alice())


def cancel_task(task):
    return ledger.cancel_task(Task.objects.get(uuid=task))


def retry(task):
    ledger.retry_task(Task.objects.get(uuid=task), by=alice())


def drop_cluster(cluster):
    return str(delete_cluster(Cluster.objects.get(uuid=cluster), by=alice()).uuid)


def change(cluster, verb, **more):
    """What the pages do: `verb` is the beginning of an action's name. The task."""
    act = getattr(actions, f"{verb}_cluster")
    return str(act(Cluster.objects.get(uuid=cluster), **more, by=alice()).uuid)


def live_clusters():
    return [str(uuid) for uuid in Cluster.objects.live().values_list("uuid", flat=True)]


def set_timers(cluster, pause=0, shutdown=0):
    Cluster.objects.filter(uuid=cluster).update(auto_pause=pause, auto_shutdown=shutdown)


def leave_alone(cluster, minutes):
    """As if nobody had done anything with it for so many minutes more."""
    by = timedelta(minutes=minutes)
    Cluster.objects.filter(uuid=cluster).update(last_active=F("last_active") - by, warned=F("warned") - by)


def is_warned(cluster):
    return Cluster.objects.get(uuid=cluster).warning is not None


def tasks_of(cluster, kind):
    return list(Cluster.objects.get(uuid=cluster).tasks.filter(kind=kind).values_list("title", "status"))


def repair(cluster):
    return str(repair_cluster(Cluster.objects.get(uuid=cluster), by=alice()).uuid)


def drop_workspace(workspace):
    return str(delete_workspace(Workspace.objects.get(uuid=workspace), by=alice()).uuid)


def nodes(cluster):
    return [
        {"name": n.hostname, "state": n.state, "address": n.address, "port": n.port, "id": n.cloud_id}
        for n in Cluster.objects.get(uuid=cluster).nodes.all()
    ]


def forget_lists():
    """As if no cloud had been asked yet what there is."""
    Listing.objects.all().delete()


def on_node(cluster, command, rank=0):
    node = Cluster.objects.get(uuid=cluster).nodes.get(rank=rank)
    answer = ssh.run(node.host, command)
    return {"status": answer.status, "out": answer.text}


def floor_launch(cluster, command):
    """The floor of a launch: mpiexec over a kept connection, nothing else. Seconds to first line and end."""
    cluster = Cluster.objects.get(uuid=cluster)
    head = cluster.nodes.get(rank=0)
    folder = cluster.engine_folder
    ssh.run(head.host, "true")
    words = f"export PATH={folder}/bin:$PATH; exec mpiexec -n {cluster.cores} -f {head.home}/hostfile python {command}"

    async def go():
        began = time.time()
        async with _connections.stream(head.host, words) as out:
            first = None
            last = b""
            while line := await out.readline():
                first = first or time.time()
                last = line
            return [first - began, time.time() - float(last.split()[1])]

    return background.wait_for(go())


def floor_cold(cluster, words, seconds=60):
    """The floor of a start that has nothing yet: a connection of its own. Seconds to the stamp FIRST of a program."""
    host = Cluster.objects.get(uuid=cluster).nodes.get(rank=0).host

    async def go():
        began = time.time()
        async with await _connect(host) as connection:
            told = await connection.run(words, check=True, timeout=seconds)
        return float(next(line for line in told.stdout.splitlines() if line.startswith("FIRST")).split()[1]) - began

    return background.wait_for(go())


def begin_many(workspace, clusters, count, git_url, command):
    """So many jobs with a run each, on these clusters in turns, as fast as they can be asked for."""
    made = [make_job(workspace, clusters[n % len(clusters)], git_url, command, f"burst-{n}") for n in range(count)]
    return [one["run"] for one in made]


def ended_of(runs):
    """How many of these have each status, how often their programs have ended, and when the last of them did."""
    rows = Run.objects.filter(uuid__in=runs)
    statuses = list(rows.values_list("status", flat=True))
    ends = [end.timestamp() for end in rows.values_list("ended", flat=True) if end]
    return {"status": {one: statuses.count(one) for one in statuses}, "last": max(ends, default=None)}


def floor_many(clusters, command, each):
    """The floor of many runs: so many on each cluster, one after the other, over kept connections. Seconds."""
    heads = [Cluster.objects.get(uuid=cluster).nodes.get(rank=0).host for cluster in clusters]
    for head in heads:
        ssh.run(head, "true")

    def drain(head):
        assert all(ssh.run(head, command).status == 0 for _ in range(each))

    began = time.time()
    with ThreadPoolExecutor(len(heads)) as pool:
        list(pool.map(drain, heads))
    return time.time() - began


def engine_of(cluster):
    """A shell's words with which mpiexec of the cluster's engine is found."""
    return f"export PATH={Cluster.objects.get(uuid=cluster).engine_folder}/bin:$PATH"


async def _connect(host):
    """A connection of asyncssh alone, as nobody has kept it."""
    where = {"sock": ssh.through(host.door)} if host.door else {"host": host.address, "port": host.port}
    return await asyncssh.connect(
        **where,
        username=host.user,
        client_keys=[asyncssh.import_private_key(host.key)],
        known_hosts=([asyncssh.import_public_key(host.host_key)], [], []),
        config=None,
        agent_path=None,
        compression_algs=None,
    )


def floor_terminal(cluster, rounds):
    """The floor of a terminal: asyncssh alone. Seconds to the first byte of new ones, and to the echo of each key."""
    host = Cluster.objects.get(uuid=cluster).nodes.get(rank=0).host

    async def go():
        firsts, echoes = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            async with await _connect(host) as connection:
                process = await connection.create_process("exec bash -i", request_pty="force", encoding=None)
                seen = await process.stdout.read(4096)
                firsts.append(time.perf_counter() - began)
                while not seen.endswith(b"$ "):
                    seen += await process.stdout.read(4096)
                for _ in range(10):
                    began = time.perf_counter()
                    process.stdin.write(b"x")
                    await process.stdout.read(4096)
                    echoes.append(time.perf_counter() - began)
        return firsts, echoes

    return background.wait_for(go())


def floor_stream(cluster, path):
    """The floor of following a file: its bytes over a kept connection, stored nowhere. Seconds."""
    host = Cluster.objects.get(uuid=cluster).nodes.get(rank=0).host

    async def go():
        began = time.time()
        size = 0
        async with _connections.stream(host, f"exec cat {path}") as out:
            while data := await out.read(1 << 18):
                size += len(data)
        return [time.time() - began, size]

    return background.wait_for(go())


def floor_nodes(workspace, nodes):
    """The floor of a cluster: nodes that answer over SSH, made and deleted by the cloud alone. Seconds."""
    return floor_life(workspace, nodes)["create"]


def floor_life(workspace, nodes):
    """The floor of a cluster's life: what the cloud alone needs until its nodes answer, or are stopped, or are gone."""
    workspace = Workspace.objects.get(uuid=workspace)
    private, public = ssh.new_key("floor")
    keys = tuple(clouds.HostKey(*ssh.new_key(f"floor-{n}")) for n in range(nodes))
    tags = workspace.tags(uuid4())
    offer = workspace.cloud_config.account.instance_types(workspace.region)[-1]
    spec = clouds.NodesSpec(tags, "floor", offer.name, keys, (public,))

    def make():
        workspace.cloud.ensure_nodes(spec)
        while not all(node.address for node in workspace.cloud.nodes(tags)):
            time.sleep(0.01)
        hosts = [
            ssh.Host(
                node.hostname,
                node.address,
                node.port,
                node.user,
                private,
                node.host_key or key.public,
                node.door,
                certificate=next(iter(node.certificates), ""),
            )
            for node, key in zip(workspace.cloud.nodes(tags), keys, strict=True)
        ]
        for answer in ssh.run_on_all(hosts, "true"):
            assert answer.status == 0

    def end(how):
        while pending := how(tags):
            time.sleep(min(0.05, pending.look_in))

    took = {}
    steps = {
        "create": make,
        "pause": lambda: end(workspace.cloud.stop_nodes),
        "resume": make,
        "delete": lambda: end(workspace.cloud.delete_nodes),
    }
    if clouds.Can.PAUSE not in workspace.cloud.can:
        del steps["pause"], steps["resume"]
    for name, do in steps.items():
        began = time.time()
        do()
        took[name] = time.time() - began
    return took


def task_times(kind, uuid):
    task = {"cluster": Cluster, "run": Run}[kind].objects.get(uuid=uuid).last_task
    return {
        "total": (task.finished - task.created).total_seconds(),
        "steps": {step.name: step.elapsed.total_seconds() for step in task.steps.all() if step.elapsed},
    }


def leftovers(cluster):
    cluster = Cluster.objects.get(uuid=cluster)
    return [f"{r.kind} {r.id}" for r in cluster.workspace.cloud.leftovers(cluster.tags)]


def open_task(workspace, title="Print"):
    """A task that goes on until `end_task`, whose output `say` writes; no worker takes it up. Ends the one before."""
    subject = Workspace.objects.get(uuid=workspace)
    subject.tasks.unfinished().update(status="finished", finished=now())
    task = Task.objects.create(
        kind="workspaces.create",
        title=title,
        subject=subject,
        queue="provision",
        status="inprogress",
        started=now(),
        lease=uuid4(),
        lease_until=now() + timedelta(days=1),
        output=Output.objects.create(),
    )
    for position, step in enumerate(ledger.plan_of(task.kind).steps):
        Step.objects.create(task=task, position=position, name=step.name, title=step.title)
    return {"task": str(task.uuid), "output": str(task.output.uuid)}


def say(output, data, stream="portal", times=1):
    """`data` is latin-1, so that any byte can be said."""
    store = Output.objects.get(uuid=output)
    for n in range(times):
        store.append(Stream[stream.upper()], data.replace("{n}", str(n)).encode("latin-1"))
    return store.head


def say_ranks(output, pieces, nodes=None):
    """[rank, text] or [rank, text, stream, world] each, as a node's log would bring them."""
    store = Output.objects.get(uuid=output)
    if nodes is not None:
        Output.objects.filter(pk=store.pk).update(nodes=nodes)
    log = [
        Segment(Stream[(more[0] if more else "stdout").upper()], text.encode(), now(), *more[1:], rank=rank)
        for rank, text, *more in pieces
    ]
    store.append_log(log, offset=store.log, size=1)
    return store.head


def say_over_time(output, ranks, minutes, silent):
    """Each rank two lines a minute, one of them the same for all; those of `silent` only for so many minutes."""
    store = Output.objects.get(uuid=output)
    start = time.time_ns() - minutes * 60 * 10**9
    log = [
        Segment(Stream.STDOUT, text.encode(), start + minute * 60 * 10**9 + rank * 10**6, 0, rank)
        for minute in range(minutes)
        for rank in range(ranks)
        if minute < silent.get(str(rank), minutes)
        for text in (f"minute {minute}\n", f"rank {rank} is at {minute}\n")
    ]
    store.append_log(log, offset=store.log, size=1)


def fill_output(output, mib):
    """So many MiB of lines of 1 KiB which begin with their number. Nobody keeps it meanwhile. Returns its size."""
    store = Output.objects.get(uuid=output)
    Output.objects.filter(pk=store.pk).update(keep_at=now() + timedelta(days=1))
    for n in range(mib):
        data = b"".join(b"%015d " % (n * 1024 + k) + b"x" * 1007 + b"\n" for k in range(1024))
        store.append_log([Segment(Stream.STDOUT, data, time.time_ns(), 0, 0)], offset=store.log, size=len(data))
    Output.objects.filter(pk=store.pk).update(ended=True)
    return store.head


def keep_output(output):
    """Keep it, as a worker does, and write a line elsewhere all the time. What that took; and a plain write of it."""
    store, other = Output.objects.get(uuid=output), Output.objects.create()
    piece = b"x" * 1024 * 1024
    began = time.monotonic()
    with open(settings.VAR / "floor", "wb") as file:
        for _ in range(store.head // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    floor = time.monotonic() - began
    os.unlink(settings.VAR / "floor")

    over, waits = threading.Event(), []

    def write():
        while not over.wait(0.01):
            wrote = time.monotonic()
            other.append(Stream.PORTAL, b"a line\n")
            waits.append(time.monotonic() - wrote)
        connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    begins = time.time()
    try:
        keeping.keep(store)
    finally:
        over.set()
        writer.join()
    is_whole = store.is_kept and not store.chunks.exists()
    return {"began": begins, "ended": time.time(), "floor": floor, "waits": waits, "whole": is_whole}


def end_task(task, status="finished"):
    row = Task.objects.get(uuid=task)
    Task.objects.filter(pk=row.pk).update(status=status, finished=now(), lease=None, lease_until=None)
    Output.objects.filter(pk=row.output_id).update(ended=True)
    row.changed()
    live.ring(row.output.live_name)


def secrets_kept(workspace, cluster):
    """What is kept encrypted, in the clear."""
    return {
        "workspace key": Workspace.objects.get(uuid=workspace).login_key,
        "cluster key": Cluster.objects.get(uuid=cluster).key,
    }


def dump_database():
    """Every value of every row of every table, as text."""
    said = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            said += [f"{table} {_text(value)}" for row in cursor.fetchall() for value in row]
    return "\n".join(said)


def dump_queue():
    """Every key of Redis and what it holds, as Redis itself would dump it."""
    server = redis.Redis.from_url(settings.REDIS_URL)
    return "\n".join(f"{key!r} {_text(server.dump(key))}" for key in server.scan_iter())


def _text(value):
    return bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else str(value)


def market(method, path, cookie, target="", body=""):
    """What the portal would answer if This computer offered 1,400 instance types. Nothing is made of it."""
    account = MarketAccount(MarketCloud())
    headers = {"cookie": cookie} | ({"HX-Request": "true", "HX-Target": target} if target else {})
    patches = {"account": account, "can": account.cloud("").can}
    with ExitStack() as patched:
        for name, value in patches.items():
            patched.enter_context(patch.object(CloudConfig, name, value))
        patched.enter_context(patch("clusters.forms.create.room_for", return_value=None))
        patched.enter_context(patch("clusters.views.create.create_cluster", side_effect=PortalError("Not for sale.")))
        client = Client()
        host = urlsplit(settings.PORTAL_URL).netloc
        kind = "application/x-www-form-urlencoded"
        answer = client.generic(method, path, body, kind, headers={"host": host} | headers)
    return {"status": answer.status_code, "headers": dict(answer.headers), "body": answer.content.decode()}


def end_session(cookie):
    Session.objects.filter(session_key=SessionKey.of(cookie)).delete()


def main():
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": globals()[name](**arguments)}
        except Exception:  # noqa: BLE001 (told to the test)
            answer = {"error": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
