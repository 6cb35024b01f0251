"""A job is changed, moved, run once with changes, and deleted; what failed leaves the dashboard when it is mended."""

from __future__ import annotations

import base64
import json
import re

import pytest
from django.urls import reverse
from django.utils.timezone import now

from accounts.actions import create_token
from accounts.models import AuditEvent
from clusters.models import Cluster, EngineVersion
from jobs.actions import Credential, Program, change_job, create_job, delete_job, start_run
from jobs.forms import EditJobForm
from jobs.models import Job, Run
from jobs.plans import _credential
from jobs.views import runs
from portal.errors import PortalError
from portal.tasks.models import Output

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_runs(rings, monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def make_cluster(lab):
    def make_cluster(name, status="running", workspace=lab):
        return Cluster.objects.create(
            workspace=workspace, name=name, instance_type="local.1", cores_per_node=1, node_count=1, status=status,
            engine_version=EngineVersion.objects.get(kind="mpi"),
        )  # fmt: skip

    return make_cluster


@pytest.fixture
def job(lab, make_cluster, bob):
    job, _ = create_job(
        lab, name="tides", cluster=make_cluster("tide"), git_url="https://git.example.org/x", reference="v1",
        command="ex.py", by=bob, time_limit=600,
    )  # fmt: skip
    return job


@pytest.fixture
def post(client, bob):
    def post(page, row, **fields):
        client.force_login(bob)
        return client.post(reverse(page, args=[row.uuid]), fields)

    return post


def fields_of(job, **changes):
    return {
        "name": job.name, "cluster": job.cluster.uuid, "command": job.command, "git_url": job.git_url,
        "reference": job.reference, "time_limit": (job.time_limit or 600) // 60, **changes,
    }  # fmt: skip


def last_entry():
    event = AuditEvent.objects.order_by("-pk")[0]
    return event.verb, event.kind, event.before, event.after


def test_each_field_of_a_job_can_be_changed_and_the_audit_says_from_what_to_what(post, job, make_cluster):
    ebb = make_cluster("ebb")
    changed = fields_of(
        job, name="Tides 2", cluster=ebb.uuid, command="new.py 1", git_url="https://git.example.org/y", reference="",
        time_limit="",
    )  # fmt: skip
    assert post("edit-job", job, **changed).url == reverse("job", args=[job.uuid])
    job.refresh_from_db()
    assert (job.name, job.cluster, job.command, job.reference) == ("Tides 2", ebb, "new.py 1", "")
    assert (job.git_url, job.time_limit) == ("https://git.example.org/y", None)
    verb, kind, before, after = last_entry()
    assert (verb, kind) == ("changed", "job")
    assert (before["cluster"], after["cluster"]) == ("tide", "ebb")
    assert (before["time limit"], after["time limit"]) == ("10 min", "24 h")
    assert (before["source"], after["source"]) == ("https://git.example.org/x", "https://git.example.org/y")


def test_an_edit_changes_no_run_that_was_asked_for_and_counts_for_the_next(post, job):
    answer = post("edit-job", job, **fields_of(job, command="new.py"), run="yes")
    first, second = job.runs.order_by("number")
    assert (first.command, second.command) == ("ex.py", "new.py")
    assert answer.url == second.get_absolute_url()


def test_what_is_wrong_in_an_edit_is_said_at_the_field_and_changes_nothing(post, job, make_cluster, lab, bob):
    create_job(lab, name="Other", cluster=job.cluster, git_url="https://h/x", reference="", command="a.py", by=bob)
    for field, value in (
        ("name", "oTHER"),
        ("git_url", "https://github.com"),
        ("command", "a.py && b"),
        ("cluster", "x"),
    ):
        answer = post("edit-job", job, **fields_of(job, **{field: value}))
        assert answer.status_code == 200
        assert answer.context["form"].errors.keys() == {field}
    assert post("edit-job", job, **fields_of(job)).status_code == 302, "its own name is not taken"
    assert AuditEvent.objects.filter(verb="changed").count() == 0


def test_a_password_goes_to_no_other_server_than_the_one_it_was_given_for(lab, make_cluster, bob, post):
    job, run = create_job(
        lab, name="p", cluster=make_cluster("tide"), git_url="https://git.example.org/x", reference="", command="a.py",
        by=bob, credential=Credential("bob", "s3cret"),
    )  # fmt: skip
    assert json.loads(_credential(run))["password"] == "s3cret"
    change_job(job, by=bob, git_url="https://git.example.org/other")
    assert Job.objects.get(pk=job.pk).git_password
    answer = post("edit-job", job, **fields_of(job, git_url="https://evil.example.org/x", time_limit=""))
    assert "is for another server, and is not used" in str(next(iter(answer.wsgi_request._messages)))
    job.refresh_from_db()
    assert (job.git_username, job.git_password) == ("", "")
    assert last_entry()[2]["signs in as"] == "bob"
    # And a run that was asked for before, from the old server, gets nothing that was given for the new one.
    Job.objects.filter(pk=job.pk).update(git_password="sealed")
    assert _credential(Run.objects.select_related("job__workspace__organization").get(pk=run.pk)) == ""


def test_one_run_with_changes_leaves_the_job_as_it_is(post, job, make_cluster):
    ebb = make_cluster("ebb")
    old = job.runs.get()
    asked = {"cluster": ebb.uuid, "command": "ex.py --more", "reference": "main", "time_limit": "1"}
    answer = post("run-with-changes", old, **asked)
    run = job.runs.get(number=2)
    assert answer.url == run.get_absolute_url()
    assert (run.cluster, run.command, run.reference, run.time_limit) == (ebb, "ex.py --more", "main", 60)
    assert run.git_url == old.git_url
    assert last_entry()[3] == {"cluster": "ebb", "command": "ex.py --more", "reference": "main", "time limit": "1 min"}
    before = job.command, job.cluster_id
    job.refresh_from_db()
    assert (job.command, job.cluster_id) == before


def test_the_form_of_a_run_with_changes_is_filled_in_like_the_run(client, bob, job):
    old = job.runs.get()
    change_job(job, by=bob, command="other.py")
    client.force_login(bob)
    filled = client.get(reverse("run-with-changes", args=[old.uuid])).context["form"]
    assert (filled["command"].value(), filled["reference"].value(), filled["time_limit"].value()) == ("ex.py", "v1", 10)
    assert client.get(reverse("run-job-with-changes", args=[job.uuid])).context["form"]["command"].value() == "other.py"


def test_a_run_is_asked_for_once_however_often_its_form_is_sent(post, job):
    key = "11111111-1111-4111-8111-111111111111"
    asked = {"cluster": job.cluster.uuid, "command": "a.py", "key": key}
    assert post("run-job-with-changes", job, **asked).url == post("run-job-with-changes", job, **asked).url
    assert job.runs.count() == 2


def test_a_run_is_not_that_of_another_job_whoever_gives_its_uuid(lab, job, make_cluster, bob):
    other, run = create_job(
        lab, name="other", cluster=make_cluster("ebb"), git_url="https://git.example.org/x", reference="v1",
        command="ex.py", by=bob,
    )  # fmt: skip
    ours = start_run(job, by=bob, uuid=run.uuid)
    assert (ours.job, run.job) == (job, other)
    assert ours.uuid != run.uuid


@pytest.mark.parametrize(("target", "most"), [("", 8), ("run-head", 7)])  # its page, and the news of that
def test_a_run_that_goes_on_is_shown_with_few_questions(client, bob, job, target, most, django_assert_max_num_queries):
    run = job.runs.get()
    assert run.move("inprogress", started=now())
    client.force_login(bob)
    client.get("/")  # which writes down that it is this session's first page
    with django_assert_max_num_queries(most):
        page = client.get(f"/runs/{run.uuid}/", headers={"HX-Request": "true", "HX-Target": target} if target else {})
    assert page.status_code == 200
    assert b"INPROGRESS" in page.content


def test_a_deleted_job_keeps_its_runs_frees_its_name_and_runs_no_more(client, post, lab, job, bob, make_cluster):
    waiting = start_run(job, by=bob)
    assert waiting.is_waiting
    page = client_get(client, bob, "delete-job", job)
    assert "not ended, and will be cancelled" in page
    assert "up to run 2" in page
    assert post("delete-job", job).url == reverse("jobs", args=[lab.uuid])
    waiting.refresh_from_db()
    assert waiting.status == "cancelled"
    assert "Deleted by Bob" in client_get(client, bob, "job", job)
    page = client_get(client, bob, "run", waiting)
    assert "Its job was deleted" in page
    assert "Run again" not in page
    with pytest.raises(PortalError, match="was deleted"):
        start_run(job, by=bob)
    with pytest.raises(PortalError, match="was deleted"):
        change_job(job, by=bob, name="x")
    for name in ("edit-job", "delete-job", "run-job-with-changes", "job-credential"):
        client.force_login(bob)
        assert client.get(reverse(name, args=[job.uuid])).status_code == 302
    assert reverse("job", args=[job.uuid]) not in client_get(client, bob, "jobs", lab)
    again, _ = create_job(
        lab, name="tides", cluster=job.cluster, git_url="https://h/x", reference="", command="a.py", by=bob
    )
    assert again != job
    assert delete_job(job, by=bob) == 0


def client_get(client, who, name, row):
    client.force_login(who)
    return " ".join(client.get(reverse(name, args=[row.uuid])).content.decode().split())


def test_a_job_whose_cluster_is_gone_is_moved_and_run_with_one_press(client, post, job, make_cluster, bob, vera):
    ebb = make_cluster("ebb")
    make_cluster("broken", "failed")
    Cluster.objects.filter(pk=job.cluster_id).update(status="terminated")
    run = job.runs.get()
    Run.objects.filter(pk=run.pk).update(status="failed", ended=now(), cause="The cluster tide was deleted.")
    assert post("run-job", job).url == reverse("job", args=[job.uuid]) + "#clusters"
    for name, row in (("job", job), ("run", run)):
        page = client_get(client, bob, name, row)
        assert reverse("move-job", args=[job.uuid]) in page
        assert "ebb, RUNNING, 1 core" in page
        assert "broken" not in page
        assert reverse("move-job", args=[job.uuid]) not in client_get(client, vera, name, row)
    moved = post("move-job", job, cluster=ebb.uuid, run="yes")
    job.refresh_from_db()
    assert job.cluster == ebb
    assert moved.url == job.runs.get(number=2).get_absolute_url()


def test_a_job_is_moved_to_no_cluster_of_others_and_to_none_that_is_gone(
    post, job, make_cluster, elsewhere, this_computer
):
    there = type(job.workspace).objects.create(
        organization=elsewhere, cloud_config=this_computer, name="theirs", region="x", status="ready"
    )
    for cluster in (make_cluster("theirs", workspace=there), make_cluster("old", "terminated")):
        post("move-job", job, cluster=cluster.uuid)
        with pytest.raises(PortalError):
            start_run(job, by=None, program=Program(cluster, "https://h/x", "", "a.py", None))
    job.refresh_from_db()
    assert job.cluster.name == "tide"
    assert job.runs.count() == 1


def a_run(job, status):
    run = Run.objects.create(
        job=job, cluster=job.cluster, number=100 + job.runs.count(), output=Output.objects.create(),
        status="inprogress", started=now(),
    )  # fmt: skip
    assert run.move(status, ended=now())
    return run


def needing(job):
    return list(job.runs.filter(needs_you=True))


def test_a_program_learns_how_a_run_ended_and_where_its_output_is(client, lab, job, alice, elsewhere, charlie):
    lab_token = create_token(lab.organization, name="ci", role="viewer", by=alice, days=1, workspace=lab)
    run = job.runs.get()
    told = client.get(reverse("run-state", args=[run.uuid]), headers=basic(lab_token)).json()
    assert (told["status"], told["has_ended"], told["ended"]) == ("NEW", False, None)
    Run.objects.filter(pk=run.pk).update(status="inprogress", started=now())
    run.refresh_from_db()
    run.move(Run.Status.FAILED, ended=now(), exit_status=3, cause="Rank 1 exited with 3.", retry_at=None)
    told = client.get(reverse("run-state", args=[run.uuid]), headers=basic(lab_token)).json()
    assert (told["status"], told["has_ended"], told["exit_status"]) == ("FAILED", True, 3)
    assert told["cause"] == "Rank 1 exited with 3."
    assert client.get(told["output"], headers=basic(lab_token)).status_code == 200
    theirs = create_token(elsewhere, name="ci", role="member", by=charlie, days=1)
    for token, status in ((theirs, 404), ((lab_token[0], "wrong"), 401)):
        assert client.get(reverse("run-state", args=[run.uuid]), headers=basic(token)).status_code == status


def basic(token):
    row, secret = token
    return {"authorization": "Basic " + base64.b64encode(f"{row.uuid}:{secret}".encode()).decode()}


def test_the_last_failure_of_a_job_needs_somebody_until_a_later_run_is_finished(job):
    first, second = a_run(job, "failed"), a_run(job, "failed")
    assert needing(job) == [second]
    a_run(job, "cancelled")
    assert needing(job) == [second]
    a_run(job, "finished")
    assert needing(job) == []
    assert first.status == second.status == "failed"


def test_a_run_that_fails_after_a_later_one_was_finished_needs_nobody(job):
    slow = Run.objects.get(pk=a_run(job, "failed").pk)
    Run.objects.filter(pk=slow.pk).update(status="inprogress", needs_you=False)
    slow.refresh_from_db()
    a_run(job, "finished")
    assert slow.move("failed")
    assert needing(job) == []


def test_of_two_that_end_at_once_and_do_not_see_each_other_the_later_one_counts(
    job, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        failed = a_run(job, "failed")
        a_run(job, "finished")
        Run.objects.filter(pk=failed.pk).update(needs_you=True)  # as if it was written beside the other
    assert needing(job) == []


def test_somebody_is_done_with_a_failed_run_and_is_named_in_the_audit(client, post, job, bob):
    run = a_run(job, "failed")
    place = reverse("workspace-dashboard", args=[job.workspace.uuid])
    assert f"need-{run.uuid}" in client_get(client, bob, "workspace-dashboard", job.workspace)
    assert post("dismiss-run", run, next=place).url == place
    assert f"need-{run.uuid}" not in client_get(client, bob, "workspace-dashboard", job.workspace)
    assert last_entry()[:2] == ("dismissed", "run")
    for elsewhere in ("https://evil.example.org/", "//evil.example.org/", "/\\evil.example.org"):
        assert post("dismiss-run", run, next=elsewhere).url == run.get_absolute_url()


def test_the_advice_of_a_failed_run_leads_to_what_it_speaks_of(client, bob, vera, job):
    run = a_run(job, "failed")
    words = "Give the job its password, and check the Git URL, the command and the time limit."
    Run.objects.filter(pk=run.pk).update(advice=words, code="no_program")
    edit = reverse("edit-job", args=[job.uuid])
    page = client_get(client, bob, "run", run)
    assert re.findall(rf"{edit}#(\w+)", page) == ["id_command", "id_reference"]
    assert edit not in client_get(client, vera, "run", run)
    Run.objects.filter(pk=run.pk).update(git_url="/shared/tides")  # which has no reference
    assert re.findall(rf"{edit}#(\w+)", client_get(client, bob, "run", run)) == ["id_command"]
    Run.objects.filter(pk=run.pk).update(code="")  # of before causes had codes
    page = client_get(client, bob, "run", run)
    assert words in page
    assert edit not in page


def test_what_mends_each_cause_is_a_field_that_its_form_has(client, bob, job):
    wanted = {mend for mends in runs._MENDS.values() for mend in mends} - {"repair"}
    assert wanted == set(runs._FIELDS)
    for name, field, words in runs._FIELDS.values():
        assert f'id="{field}"' in client_get(client, bob, name, job)
        if name == "edit-job":  # the button calls the field what the form calls it
            label = EditJobForm.base_fields[field.removeprefix("id_")].label or field.removeprefix("id_")
            assert {*label.lower().split()} & {*words.lower().split()}


def test_advice_that_nobody_can_follow_any_more_is_not_given(client, bob, job, make_cluster):
    run = a_run(job, "failed")
    advice = "Choose another cluster for the job, and run it again."
    Run.objects.filter(pk=run.pk).update(advice=advice, code="cluster_gone")
    assert advice in client_get(client, bob, "run", run)
    assert f"{reverse('edit-job', args=[job.uuid])}#id_cluster" in client_get(client, bob, "run", run)
    change_job(job, by=bob, cluster=make_cluster("ebb"))
    assert advice not in client_get(client, bob, "run", run)
    Run.objects.filter(pk=run.pk).update(advice="Look at its output.", code="rank")
    assert "Look at its output." in client_get(client, bob, "run", run)
    delete_job(job, by=bob)
    assert "Look at its output." not in client_get(client, bob, "run", run)


def test_a_workspace_without_clusters_offers_a_job_to_whoever_may_give_it_one_of_its_own(client, alice, bob, lab):
    new = f'href="{reverse("new-job", args=[lab.uuid])}"'
    assert new in client_get(client, alice, "workspace-dashboard", lab)
    assert new not in client_get(client, bob, "workspace-dashboard", lab)


def test_where_no_cluster_is_left_each_form_of_a_job_leads_to_one_or_names_who_makes_it(client, alice, bob, job):
    Cluster.objects.filter(pk=job.cluster_id).update(status="terminated")
    new = reverse("new-cluster", args=[job.workspace.uuid])
    for name, row in (("edit-job", job), ("run-job-with-changes", job), ("run-with-changes", job.runs.get())):
        assert new in client_get(client, alice, name, row)
        page = client_get(client, bob, name, row)
        assert "An admin of the workspace can create one." in page
        assert new not in page


def test_an_example_fills_in_the_form_and_loses_nothing_that_was_typed(post, lab, job):
    typed = {"name": "mine", "cluster": job.cluster.uuid, "time_limit": "7", "use": "hostnames", "command": "x"}
    form = post("new-job", lab, **typed).context["form"]
    assert not form.errors
    values = {name: form[name].value() for name in ("name", "command", "time_limit")}
    assert values == {"name": "mine", "command": "hostnames.py", "time_limit": "7"}
    assert form["git_url"].value().endswith("/examples/hostnames")
    assert lab.jobs.count() == 1, "nothing was made"
