"""Pages as the server makes them: whatever is offered can be had, and what cannot be had is not offered."""

from __future__ import annotations

import json
import os
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin
from uuid import uuid4

import pytest
from django.core.files.storage import storages
from django.core.management import call_command
from django.urls import get_resolver, reverse
from django.utils.timezone import now

from accounts import audit
from accounts.actions import create_token
from clusters.models import Cluster, EngineVersion, InstanceRole, Node
from jobs.cron import Cron
from jobs.models import Job, Run, Template
from jobs.schedules import create_schedule
from portal.clouds.machines.models import Pool
from portal.tasks.keeping import keep
from portal.tasks.models import Output, Segment, Step, Stream, Task
from tests.jobs.conftest import make_template
from tests.web import words
from usage.models import Record
from workspaces.models import CloudConfig, Workspace, WorkspaceMember

QUERIES = Path(__file__).parent / "queries.json"


class Page(HTMLParser):
    def __init__(self, response):
        super().__init__()
        self.links: set[str] = set()
        self.forms: list[tuple[str, str]] = []
        self.headings = 0
        self.primary = 0
        self.inline: list[str] = []
        self.feed(response.content.decode())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if tag == "form":
            self.forms.append((values.get("method", "get"), values.get("action") or ""))
        self.headings += tag == "h1"
        self.primary += tag in ("a", "button") and "btn-primary" in (values.get("class") or "")
        if any(name == "style" or name.startswith("on") for name in values) or tag == "style":
            self.inline.append(self.get_starttag_text() or tag)
        if tag == "script" and "src" not in values:
            self.inline.append("script")


def make_task(subject, status, **fields):
    output = Output.objects.create(ended=status != "inprogress")
    task = Task.objects.create(
        kind=f"{subject._meta.app_label}.create" if subject._meta.app_label != "jobs" else "jobs.run",
        title=f"Work on {subject}",
        subject=subject,
        queue="provision",
        status=status,
        output=output,
        started=now(),
        finished=None if status == "inprogress" else now(),
        **fields,
    )
    for position, (name, state) in enumerate([("one", "done"), ("two", "failed" if status == "failed" else "running")]):
        Step.objects.create(task=task, position=position, name=name, title=name, status=state, started=now())
    output.append(Stream.PORTAL, b"said\n")
    return task


def make_run(job, number, status, **fields):
    output = Output.objects.create(ended=True)
    output.append(Stream.STDOUT, b"out\n")
    run = Run.objects.create(
        job=job, number=number, cluster=job.cluster, git_url=job.git_url, command=job.command, status=status,
        cores=4, output=output, **{"started": now(), **fields},
    )  # fmt: skip
    task = Task.objects.create(
        kind="jobs.run", title=str(run), subject=run, queue="launch", output=output,
        status="inprogress" if status == "inprogress" else "finished", started=now(),
    )  # fmt: skip
    Step.objects.create(task=task, position=0, name="run", title="Run", status="done", started=now(), finished=now())
    return run


def make_schedule(job, by, run=None):
    schedule = create_schedule(job, Cron("0 9 * * 1-5", "Europe/Berlin"), by=by)
    if run:
        schedule.firings.create(due=now(), outcome="ran", run=run)
        schedule.firings.create(due=now(), outcome="missed", reason="The portal was not there at that time.", count=3)
    return schedule


def make_pool(workspace, cluster):
    """Three computers of own machines; the cluster has the first one, and the last one is to be confirmed."""
    regions = {"regions": [{"name": "desks", "title": "desks"}]}
    config = CloudConfig.objects.create(
        organization=workspace.organization, name="Own machines", kind="machines", findings=regions
    )
    pool = Pool.objects.create(account=config.uuid, name="desks", user="team", base="/shared/coxswain")
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGRlc2sxZGVzazFkZXNrMWRlc2sxZGVzazFkZXNrMWRl"
    ready = {"host_public": key, "state": "ready", "cores": 4, "vcpus": 8, "memory_gib": 15.5, "load": 0.5}
    lines = [{"name": "Python", "ok": True, "message": "Python 3.11.", "advice": ""}]
    first = pool.computers.create(
        address="10.0.0.1", hostname="desk1", rank=0, facts={"lines": lines}, **ready,
        **vars(workspace.tags(cluster.uuid)),
    )  # fmt: skip
    first.events.create(words="Taken.", subject=first.subject)
    pool.computers.create(address="10.0.0.2", hostname="desk2", **ready)
    pool.computers.create(address="10.0.0.3", host_shown=key)


@pytest.fixture
def filled(lab, alice, rings):
    """A workspace with a bit of everything."""
    engine = EngineVersion.objects.filter(kind="mpi").first()
    make_task(lab, "finished")
    audit.record("created", lab, organization=lab.organization, workspace=lab, by=alice)
    create_token(lab.organization, name="ci", role="admin", by=alice, days=90, workspace=lab)
    clusters = [
        Cluster.objects.create(
            workspace=lab, name=name, instance_type="local.2", cores_per_node=2, node_count=2, engine_version=engine,
            status=status, created_by=alice,
        )
        for name, status in (("tide", "running"), ("ebb", "failed"), ("new", "inprogress"))
    ]  # fmt: skip
    Record(
        organization=lab.organization.uuid, workspace=lab.uuid, workspace_name=lab.name, cluster=clusters[0].uuid,
        cluster_name="tide", instance_type="local.2", cores_per_node=2, node_count=2,
    ).begin()  # fmt: skip
    make_pool(lab, clusters[0])
    for rank, state in enumerate(("answers", "gone")):
        Node.objects.create(
            cluster=clusters[0], rank=rank, hostname=f"tide-{rank}", host_public="ssh-ed25519 AAAA", state=state
        )
    make_task(clusters[0], "finished")
    make_task(clusters[1], "failed", cause="The cloud refused.", evidence="Quota <b>0</b>", advice="Ask for more.")
    make_task(clusters[2], "inprogress")
    for name in ("alpha", "beta"):
        job = Job.objects.create(
            workspace=lab,
            cluster=clusters[0],
            name=name,
            git_url="https://example.org/a",
            command="a.py",
            created_by=alice,
        )
        make_run(job, 1, "finished", ended=now())
        make_run(job, 2, "failed", ended=now(), cause="Rank 1 ended with exit status 2.", evidence="Traceback")
        run = make_run(job, 3, "inprogress")
        make_schedule(job, alice, run)
    make_template(lab, alice)
    return lab


def crawl(client):
    """Every page that can be reached from the dashboard by links: the answers, and what is on those of them that show
    something.
    """
    seen, pages, waiting = {}, {}, ["/"]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen[path] = response = client.get(path)
        if response.status_code == 302:
            waiting.append(response["Location"])
        if response.get("Content-Type", "").startswith("text/html"):
            page = Page(response)
            if response.status_code == 200:
                pages[path] = page
            for link in page.links:
                target = urljoin(path, link).split("#")[0]
                if target.startswith("/") and target not in seen:
                    waiting.append(target)
    return seen, pages


@pytest.mark.parametrize("who", ["alice", "bob", "vera"])
def test_every_page_is_well_made_and_offers_only_what_is_there_and_may_be_done(request, client, filled, who):
    """One heading, one primary button at most, nothing inline. Each form that changes something is sent by whom does
    not administer: whatever the answer says, it must not be 403.
    """
    client.force_login(request.getfixturevalue(who))
    answers, pages = crawl(client)
    bad = {path: answer.status_code for path, answer in answers.items() if answer.status_code not in (200, 302)}
    assert bad == {}
    assert len(answers) > 20
    for path, page in pages.items():
        if "/accounts/" not in path:
            assert (page.headings, page.inline) == (1, []), path
            assert page.primary <= 1, path
    if who == "alice":
        return
    sent = {urljoin(path, to): path for path, page in pages.items() for method, to in page.forms if method == "post"}
    for address, path in sent.items():
        if "logout" not in address:
            assert client.post(address).status_code != 403, (path, address)


def pages_of_a_role(filled):
    """Of a workspace whose other pages would ask an account."""
    config = CloudConfig.objects.create(
        organization=filled.organization, name="AWS", kind="aws",
        options={"role": "arn:aws:iam::222233334444:role/portal", "region": "us-east-2"},
    )  # fmt: skip
    place = Workspace.objects.create(
        organization=filled.organization, cloud_config=config, name="in AWS", region="us-east-2", status="ready"
    )
    WorkspaceMember.objects.bulk_create(
        WorkspaceMember(workspace=place, user=one.user, role=one.role) for one in filled.members.all()
    )
    for n in range(5):
        role = InstanceRole.objects.create(workspace=place, name=f"r{n}", arn=f"arn:aws:iam::222233334444:role/r{n}")
    of = {"instance-roles": place, "new-instance-role": place, "instance-role": role, "remove-instance-role": role}
    return {name: reverse(name, args=[one.uuid]) for name, one in of.items()}


def named_pages(filled):
    cluster = Cluster.objects.get(name="tide")
    run = Run.objects.filter(status="failed").first()
    pool = Pool.objects.get()
    of = {
        "workspace": filled.uuid, "cluster": cluster.uuid, "job": run.job.uuid, "run": run.uuid,
        "schedule": run.job.schedules.get().uuid, "template": Template.objects.first().uuid,
        "pool": pool.uuid, "computer": pool.computers.get(hostname="desk1").uuid,
    }  # fmt: skip
    names = {
        "dashboard": None, "all-runs": None, "cloud-configs": None, "workspaces": None, "new-workspace": None,
        "workspace-settings": "workspace", "clusters": "workspace", "new-cluster": "workspace", "jobs": "workspace",
        "new-job": "workspace", "workspace-people": "workspace", "organization": None, "organization-settings": None,
        "organizations": None, "people": None, "cluster": "cluster", "job": "job", "run": "run", "audit": None,
        "tokens": None, "workspace-tokens": "workspace", "new-workspace-token": "workspace",
        "workspace-dashboard": "workspace", "runs": "workspace", "edit-job": "job", "delete-job": "job",
        "run-job-with-changes": "job", "run-with-changes": "run", "terminal": "cluster",
        "workspace-usage": "workspace", "organization-usage": None, "pool": "pool", "computer": "computer",
        "new-schedule": "job", "schedule": "schedule", "edit-schedule": "schedule", "excluded-days": "workspace",
        "templates": "workspace", "new-template": "workspace", "template": "template", "edit-template": "template",
        "template-of-job": "job", "delete-template": "template",
    }  # fmt: skip
    pages = {name: reverse(name, args=[of[kind]] if kind else []) for name, kind in names.items()}
    return pages | {"task": reverse("task", args=[cluster.last_task.uuid])}


@pytest.mark.parametrize("status", ["inprogress", "finished"])
def test_a_task_without_a_step_has_its_page_too(client, lab, alice, status):
    client.force_login(alice)
    task = make_task(lab, status)
    task.steps.all().delete()
    answer = client.get(reverse("task", args=[task.uuid]))
    assert (answer.status_code, task.title in answer.content.decode(), "0 of 0" in answer.content.decode()) == (
        200, True, False,
    )  # fmt: skip


def test_the_number_of_queries_of_each_page_is_on_record(client, filled, alice, django_assert_max_num_queries):
    """When a page needs more, look why; COUNT_QUERIES=1 writes the record anew."""
    client.force_login(alice)
    counted = {}
    for pages in (named_pages, pages_of_a_role):  # one after the other: the second adds to what is in lists
        for name, path in pages(filled).items():
            client.get(path)  # content types are remembered from here on
            with django_assert_max_num_queries(200) as context:
                client.get(path)
            counted[name] = len(context)
    if os.environ.get("COUNT_QUERIES"):
        QUERIES.write_text(json.dumps(counted, indent=2) + "\n")
    recorded = json.loads(QUERIES.read_text())
    assert {name: n for name, n in counted.items() if n > recorded.get(name, 0)} == {}


def test_more_rows_do_not_need_more_queries(client, filled, alice, django_assert_max_num_queries):
    client.force_login(alice)
    pages = named_pages(filled)

    def count(name):
        with django_assert_max_num_queries(500) as context:
            client.get(pages[name])
        return len(context)

    lists = (
        *("dashboard", "all-runs", "workspace-dashboard", "clusters", "jobs", "runs", "job", "cluster"),
        *("workspace-usage", "organization-usage", "pool", "computer", "schedule"),
        "templates",
    )
    for name in lists:
        count(name)
    before = {name: count(name) for name in lists}
    cluster = Cluster.objects.get(name="tide")
    job = Run.objects.filter(status="failed").first().job
    pool = Pool.objects.get()
    desk = pool.computers.get(hostname="desk1")
    for n in range(5):
        subject = str(uuid4())
        pool.computers.create(address=f"10.0.1.{n}", host_public=desk.host_public, subject=subject, rank=0)
        pool.computers.create(address=f"10.0.2.{n}", host_shown=desk.host_public)
        desk.events.create(words="Given back.", subject=subject)
        other = Job.objects.create(
            workspace=filled, cluster=cluster, name=f"j{n}", git_url="https://e.org/a", command="a"
        )
        make_schedule(other, alice, make_run(other, 1, "finished", ended=now()))
        make_schedule(job, alice)
        make_run(job, 10 + n, "failed", ended=now(), cause="x")
        Cluster.objects.create(
            workspace=filled, name=f"c{n}", instance_type="local.2", cores_per_node=1, node_count=1,
            engine_version=cluster.engine_version, status="running",
        )  # fmt: skip
    after = {name: count(name) for name in lists}
    assert not {name: (before[name], after[name]) for name in lists if after[name] > before[name]}


def test_what_is_missing_and_what_belongs_to_others_is_the_same_page(client, filled, charlie):
    client.force_login(charlie)
    others = client.get(reverse("run", args=[Run.objects.first().uuid]))
    missing = client.get(reverse("run", args=["00000000-0000-0000-0000-000000000000"]))
    nowhere = client.get("/no/such/page/")
    assert [r.status_code for r in (others, missing, nowhere)] == [404, 404, 404]
    assert others.content == missing.content == nowhere.content


def test_evidence_is_shown_as_text(client, filled, alice):
    client.force_login(alice)
    body = client.get(reverse("task", args=[Cluster.objects.get(name="ebb").last_task.uuid])).content.decode()
    assert "Quota &lt;b&gt;0&lt;/b&gt;" in body
    assert "The cloud refused." in body


def test_an_empty_organization_is_led_to_its_first_run(client, alice):
    client.force_login(alice)
    body = client.get("/").content.decode()
    assert body.count("btn-primary") == 1
    assert reverse("new-cloud-config") in body
    body = client.post(
        reverse("new-cloud-config"), {"name": "Here", "kind": "local", "key": uuid4()}, follow=True
    ).content.decode()
    assert "Here is made" in body
    assert reverse("new-workspace") in body


def test_parts_of_a_page_are_what_the_page_has_in_their_place(client, filled, alice):
    """The part that a live page fetches is the element of the whole page with the same id."""
    client.force_login(alice)
    parts = 0
    for path in named_pages(filled).values():
        whole = client.get(path).content.decode()
        for element in re.findall(r'<(?:div|section)[^>]*\bhx-get="[^"]*"[^>]*>', whole):
            target = (re.search(r'\bhx-target="#([^"]+)"', element) or re.search(r'\bid="([^"]+)"', element))[1]
            address = re.search(r'hx-get="([^"]+)"', element)[1]
            part = client.get(address, headers={"HX-Request": "true", "HX-Target": target}).content.decode()
            assert "<html" not in part, (path, target)
            assert part.strip().startswith(("<div", "<section")), (path, target)
            assert f'id="{target}"' in part.split(">", 1)[0], (path, target)
            parts += 1
    assert parts >= 9


def test_output_is_given_from_any_position_and_as_a_download(client, filled, alice):
    client.force_login(alice)
    output = Run.objects.filter(status="finished").first().output
    frame = client.get(reverse("output-frame", args=[output.uuid]), {"after": 2}).content
    size = int.from_bytes(frame[:4], "big")
    header = json.loads(frame[4 : 4 + size])
    assert (header["after"], header["next"], header["head"], frame[4 + size :]) == (2, 4, 4, b"t\n")
    download = client.get(reverse("output-download", args=[output.uuid]), {"stream": "stdout"})
    assert download["Content-Type"] == "text/plain; charset=utf-8"
    assert download["Content-Disposition"].startswith("attachment")
    assert download["X-Content-Type-Options"] == "nosniff"
    assert b"".join(download.streaming_content) == b"out\n"


@pytest.fixture
def ranks(filled, alice, client):
    """Gets a part of the output of a run of two ranks."""
    output = Run.objects.filter(status="finished").first().output
    log = [
        Segment(Stream.STDOUT, b"load 10%", now(), 0, 0),
        Segment(Stream.STDOUT, b"mi", now(), 0, 1),
        Segment(Stream.STDERR, b"oh\n", now(), 0, 1),
        Segment(Stream.STDOUT, b"\rload 100%\n", now(), 0, 0),
        Segment(Stream.STDOUT, b"ne\n", now(), 0, 1),
    ]
    output.append_log(log, offset=0, size=1)
    output.nodes = {"hosts": ["tide-0", "tide-1"], "of": {"0": 0, "1": 1}}
    output.save()
    client.force_login(alice)
    return lambda name, **asked: client.get(reverse(name, args=[output.uuid]), asked)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, b"out\noh\nload 10%\rload 100%\nmine\n"),
        ({"stream": "stdout"}, b"out\nload 10%\rload 100%\nmine\n"),
        ({"rank": "1"}, b"mioh\nne\n"),
        ({"rank": "1", "stream": "stderr"}, b"oh\n"),
        ({"rank": "0-1"}, b"oh\nload 10%\rload 100%\nmine\n"),
        ({"rank": "tide-0"}, b"load 10%\rload 100%\n"),
        ({"order": "arrival"}, b"out\nload 10%mioh\n\rload 100%\nne\n"),
    ],
)
def test_a_download_is_whole_lines_or_the_bytes_of_one_rank_or_all_as_they_came(ranks, asked, given):
    assert b"".join(ranks("output-download", **asked).streaming_content) == given


def test_the_checksum_of_a_stream_can_be_checked_with_a_download(ranks):
    output = Run.objects.filter(status="finished").first().output
    keep(output)
    arrival = ranks("output-download", order="arrival", stream="stdout")
    assert sha256(b"".join(arrival.streaming_content)).hexdigest() == output.digests["stdout"]


def test_pages_say_it_when_the_store_does_not_answer_and_are_there_all_the_same(ranks, filled, client, monkeypatch):
    run = Run.objects.filter(status="finished").first()
    keep(run.output)

    def away(*_):
        raise OSError("connection reset")

    monkeypatch.setattr(storages["outputs"], "read_range", away)
    words = "The store “outputs” does not give an output."
    task = run.last_task
    for path in (reverse("run", args=[run.uuid]), reverse("task", args=[task.uuid])):
        assert words in client.get(path).content.decode()
    for asked in ({}, {"rank": "1"}, {"after": "3"}):
        assert words in ranks("output", **asked).content.decode()
    for name, asked in [("output-frame", {}), ("output-frame", {"rank": "1"}), ("output-reach", {"rank": "1"})]:
        answer = ranks(name, **asked)
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")


def test_an_output_that_was_cut_says_how_much_is_not_there(ranks, client, settings):
    settings.OUTPUT_GIB = 100 / 1024**3
    run = Run.objects.filter(status="finished").first()
    run.output.append_log([Segment(Stream.STDOUT, b"x" * 3000, now(), 0, 0)], offset=1, size=1)
    keep(run.output)
    page = client.get(reverse("run", args=[run.uuid])).content.decode()
    assert f"{run.output.cut:,} more were written and not stored" in page
    assert run.output.cut > 2900


def test_what_names_no_rank_or_stream_is_nothing_to_download(ranks):
    for asked in ({"rank": "x"}, {"stream": "loud"}, {"order": "size"}):
        assert ranks("output-download", **asked).status_code == 404
        assert ranks("output", **asked).status_code == 200  # a person is told what is wrong


def test_a_page_can_be_asked_for_what_is_of_one_rank(ranks):
    frame = ranks("output-frame", rank="1", stream="stdout").content
    size = int.from_bytes(frame[:4], "big")
    header = json.loads(frame[4 : 4 + size])
    assert (header["next"], header["ranks"], frame[4 + size :]) == (31, 2, b"mine\n")
    assert ranks("output-reach", rank="1", stream="stderr").json() == {"position": 0, "found": 3}
    assert ranks("output-reach", rank="1", enough="2").json() == {"position": 28, "found": 3}
    assert ranks("output-nodes").json() == {"hosts": ["tide-0", "tide-1"], "of": {"0": 0, "1": 1}}


def test_pages_of_people_are_kept_in_no_cache(client, filled, alice):
    client.force_login(alice)
    for path in named_pages(filled).values():
        assert "no-store" in client.get(path)["Cache-Control"]


def test_templates_compile_and_nothing_is_left_to_collect_by_hand(tmp_path, settings):
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }
    call_command("collectstatic", interactive=False, verbosity=0)
    assert (tmp_path / "staticfiles.json").exists()
    assert get_resolver().reverse_dict


def test_who_may_make_no_cluster_is_not_sent_to_make_one(client, lab, alice, bob):
    for person, may in ((alice, True), (bob, False)):
        client.force_login(person)
        page = client.get(f"/workspaces/{lab.uuid}/jobs/new/").content.decode()
        assert ('name="own-node_count"' in page) is may  # of one for this job alone
        assert ("An admin of the workspace can create one." in page) is not may


def test_whoever_deletes_a_workspace_without_being_in_it_is_sent_to_no_cluster_of_it(client, filled, alice):
    client.force_login(alice)
    cluster = Cluster.objects.get(status="running")
    page = reverse("delete-workspace", args=[cluster.workspace.uuid])
    assert cluster.get_absolute_url() in client.get(page).content.decode()
    cluster.workspace.members.filter(user=alice).delete()
    body = client.get(page).content.decode()
    assert cluster.get_absolute_url() not in body
    assert cluster.name in body
    people = reverse("workspace-people", args=[cluster.workspace.uuid])
    assert f'"{people}"' in body.split("<main")[1]
    assert client.get(people).status_code == 200


@pytest.mark.parametrize("kind", ["console", "locmem"])
def test_without_a_mail_server_nobody_is_told_to_look_into_their_mail(client, settings, alice, kind, capfd):
    settings.EMAIL_BACKEND = f"django.core.mail.backends.{kind}.EmailBackend"
    asked = words(client.get(reverse("account_reset_password")))
    done = words(client.post(reverse("account_reset_password"), {"email": alice.email}, follow=True))
    goes_out = kind == "locmem"
    assert ("A link is sent to your address." in asked) is goes_out
    assert ("is on its way" in done) is goes_out
    assert ("it has no mail server" in done) is not goes_out


def test_who_may_not_even_look_is_not_told_that_they_may(client, bob, lab):
    client.force_login(bob)
    answer = client.get(reverse("audit"))
    assert answer.status_code == 403
    assert "Your role does not allow this" in words(answer)
    assert "may look" not in words(answer)
