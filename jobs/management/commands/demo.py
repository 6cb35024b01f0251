"""From nothing to a real MPI job's output, by the same code that the pages use."""

from __future__ import annotations

import ctypes
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management import BaseCommand, CommandParser
from django.db import OperationalError, connection
from django.utils.timezone import now

from accounts.actions import create_first_administrator, create_organization
from accounts.models import Organization, User
from clusters.actions import create_cluster, repair_cluster
from clusters.models import Cluster, EngineVersion, Node
from jobs import repositories
from jobs.actions import create_job, start_run
from jobs.models import Job, Run
from portal.errors import PortalError
from portal.supervisor import running_portal
from portal.tasks import output
from portal.tasks.models import StepStatus, Stream, Task
from workspaces.actions import create_cloud_config, create_workspace
from workspaces.models import CloudConfig, Workspace

EMAIL = "admin@example.org"
NODES = 3
PATIENCE = 300.0  # seconds without anything to say


class Stopped(Exception):
    """Ctrl-C, or the portal ended."""


class Command(BaseCommand):
    help = "Start the portal, make an organization, a workspace, a 3-node cluster and a job, and run it."
    up: subprocess.Popen[str] | None = None  # the portal, if we started it
    stopping = False
    choices: Mapping[str, str] = MappingProxyType({})  # of the workspace
    requires_system_checks = [Tags.security]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--exit", action="store_true", help="stop after the run, with its outcome as exit status")
        parser.add_argument("--example", default="flights")
        parser.add_argument("--engine", default="", help="e.g. bodo-2026.10; default: plain MPI")

    def handle(self, *args: Any, **options: Any) -> None:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, self._stop)
        self.began = time.monotonic()
        good = False
        try:
            url = self._portal()
            good = self._scenario(url, options["example"], options["engine"])
            if not options["exit"] and self.up:
                self.say("\nThe portal stays up. Ctrl-C stops it.")
                self._stay()
        except Stopped:
            pass
        except PortalError as error:
            self.say(f"FAILED: {error.message}\n{error.evidence}\n{error.advice}")
        finally:
            if self.up:
                self.up.terminate()
                self.up.wait()
        sys.exit(0 if good else 1)

    def say(self, text: str) -> None:
        self.said = time.monotonic()
        self.stdout.write(text)
        self.stdout.flush()

    def _stop(self, *_: object) -> None:
        if self.stopping:
            return
        self.stopping = True
        raise Stopped

    def _portal(self) -> str:
        """The address of this copy's portal, which is started if it is not up."""
        if found := running_portal(settings.VAR):
            self.say(f"The portal is up already at {found['url']}.")
            return str(found["url"])
        self.up = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "up"],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM),
        )
        assert self.up.stdout is not None
        for line in self.up.stdout:
            if line.startswith("Ready: "):
                url = line.removeprefix("Ready: ").strip()
                self.say(f"Portal up at {url} after {time.monotonic() - self.began:.1f} s")
                return url
            self.say(line.rstrip())
        raise Stopped

    def _stay(self) -> None:
        assert self.up is not None
        assert self.up.stdout is not None
        for line in self.up.stdout:
            if not line.startswith(("Nobody can sign in", "  http", "Ctrl-C")):
                self.say(line.rstrip())

    def _scenario(self, url: str, example: str, engine: str) -> bool:
        user, password = self._administrator()
        organization = Organization.objects.filter(memberships__user=user).first() or create_organization(
            "Demo", by=user
        )
        workspace = self._workspace(organization, self.configuration(organization, user), user)
        cluster = self._cluster(workspace, engine, user)
        run = self._run(workspace, cluster, example, url, user)
        good = run.status == Run.Status.FINISHED
        answer = self._answer(run)
        self.say(f"\n{run}: {run.badge.word} after {time.monotonic() - self.began:.1f} s in all")
        if not good:
            self.say(f"{run.cause}\n{run.evidence}\n{run.advice}")
        self.say(f"\nThe run's page:  {url}/runs/{run.uuid}/")
        self.say(f"Sign in as:      {user.email}")
        if password:
            self.say(f"with password:   {password}    (shown this once)")
        else:
            self.say(f"with the password of the first demo; a new one: manage.py changepassword {user.email}")
        return good and (example != "flights" or answer.startswith("answer: right"))

    def configuration(self, organization: Organization, user: User) -> CloudConfig:
        """Where the workspace is made."""
        found = organization.cloud_configs.live().filter(kind=CloudConfig.Kind.LOCAL).first()
        return found or create_cloud_config(organization, name="This computer", kind=CloudConfig.Kind.LOCAL, by=user)

    def _administrator(self) -> tuple[User, str]:
        user = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
        if user:
            return user, ""
        password = "-".join(secrets.token_hex(3) for _ in range(3))
        self.say(f"The first administrator is {EMAIL} with password {password}")
        return create_first_administrator(email=EMAIL, name="Admin", password=password, organization="Demo"), password

    def _workspace(self, organization: Organization, config: CloudConfig, user: User) -> Workspace:
        found = organization.workspaces.filter(status=Workspace.Status.READY, cloud_config=config).first()
        if found:
            self.say(f"Workspace {found.name} is READY")
            return found
        workspace = create_workspace(
            organization,
            name=_free_name("demo", Workspace),
            cloud_config=config,
            region=config.options.get("region") or config.account.regions()[0].name,
            choices=self.choices,
            by=user,
        )
        self._follow_task(workspace.last_task)
        workspace.refresh_from_db()
        if workspace.status != Workspace.Status.READY:
            raise PortalError("The workspace was not made.")
        return workspace

    def _cluster(self, workspace: Workspace, engine: str, user: User) -> Cluster:
        engines = {version.slug: version for version in EngineVersion.objects.filter(offered=True)}
        version = engines[engine] if engine else next(v for v in engines.values() if v.kind == EngineVersion.Kind.MPI)
        found = workspace.clusters.filter(
            status=Cluster.Status.RUNNING, node_count=NODES, engine_version=version
        ).first()
        if found:
            self.say(f"Cluster {found.name} is RUNNING")
            if found.nodes.exclude(state=Node.State.ANSWERS).exists():
                self._follow_task(repair_cluster(found, by=user))
                found.refresh_from_db()
            return found
        offers = workspace.cloud_config.account.instance_types(workspace.region)
        offer = next((offer for offer in offers if offer.cores == 2), offers[-1])
        cluster = create_cluster(
            workspace,
            name=_free_name("demo", Cluster),
            instance_type=offer,
            node_count=NODES,
            engine_version=version,
            by=user,
        )
        self._follow_task(cluster.last_task)
        cluster.refresh_from_db()
        if cluster.status != Cluster.Status.RUNNING:
            raise PortalError("The cluster was not made.")
        return cluster

    def _run(self, workspace: Workspace, cluster: Cluster, example: str, url: str, user: User) -> Run:
        repositories.publish(example)
        program = f"{example.replace('-', '_')}.py"
        git_url = f"{url}/examples/{example}"
        job = Job.objects.filter(workspace=workspace, cluster=cluster, git_url=git_url).first()
        if job:
            run = start_run(job, by=user)
        else:
            job, run = create_job(
                workspace,
                name=_free_name(example, Job),
                cluster=cluster,
                git_url=git_url,
                reference="",
                command=program,
                by=user,
            )
        self.say(f"\nRun {run.number} of job {job.name} on {cluster.cores} cores of {cluster.node_count} nodes")
        self._follow_output(run)
        return run

    def _follow_task(self, task: Task | None) -> None:
        assert task is not None
        self.say(f"\n{task.title}")
        told: set[str] = set()
        while True:
            task.refresh_from_db()
            for step in task.steps.all():
                if step.status == StepStatus.DONE and step.name not in told and step.elapsed is not None:
                    told.add(step.name)
                    self.say(f"  {step.title}: {step.elapsed.total_seconds():.1f} s")
            if task.is_finished:
                if task.cause:
                    self.say(f"  {task.badge.word}: {task.cause}\n{task.evidence}\n{task.advice}")
                return
            self.wait()

    def _follow_output(self, run: Run) -> None:
        """Print what comes, with the cursor that live pages use."""
        at = 0
        while True:
            run.refresh_from_db()
            run.output.refresh_from_db()
            ended = run.is_finished and run.output.ended
            for piece in output.read(run.output, at):
                mark = {Stream.STDERR: "stderr| ", Stream.PORTAL: "portal| ", Stream.SETUP: "setup | "}
                for line in piece.data.decode(errors="replace").splitlines():
                    self.say(f"  {mark.get(Stream(piece.stream), '        ')}{line}")
                at = piece.position + len(piece.data)
            if ended and at >= run.output.head:
                agrees = ", sha256 agrees with the node's files" if run.output.agrees else ""
                self.say(f"  complete: {at:,} of {run.output.head:,} bytes{agrees}")
                return
            self.wait()

    def wait(self) -> None:
        """A moment, for what others do."""
        if self.up and self.up.poll() is not None:
            raise Stopped
        if time.monotonic() - self.said > PATIENCE:
            raise PortalError(
                "Nothing has moved for a while.", advice=f"The files in {settings.VAR / 'log'} may say why."
            )
        try:
            connection.ensure_connection()
        except OperationalError as error:
            raise PortalError("The database does not answer.", evidence=str(error)) from error
        time.sleep(0.1)

    def _answer(self, run: Run) -> str:
        lines = output.stream_lines(run.output, output.Filter(frozenset({Stream.STDOUT})))
        text = b"".join(lines).decode(errors="replace")
        return text.strip().splitlines()[-1] if text.strip() else ""


def _free_name(name: str, model: type[Workspace] | type[Cluster] | type[Job]) -> str:
    taken = set(model.objects.filter(name__startswith=name).values_list("name", flat=True))
    return name if name not in taken else f"{name}-{now():%H%M%S}"
