"""Templates: what they may be, what becomes of values, and jobs of them."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import ValidationError
from django.urls import reverse

from accounts.models import AuditEvent
from jobs import parameters
from jobs.actions import Program, create_job
from jobs.models import Job, Template
from jobs.parameters import Parameter
from portal.secrets import unseal
from tests.jobs.conftest import make_template
from tests.web import words

pytestmark = pytest.mark.django_db


def program(**values):
    empty = {"kind": "python", "command": "a.py", "reference": "", "environment": {}}
    return empty | values


@pytest.mark.parametrize(
    ("command", "given", "bound"),
    [
        ("a.py --steps {steps}", "5", "a.py --steps 5"),
        ("a.py {steps}", "two words; rm -rf /", "a.py 'two words; rm -rf /'"),
        ("a.py --x={steps}", 'it\'s "so"', "a.py '--x=it'\"'\"'s \"so\"'"),
        ("a.py 'a {steps} b'", "$(id)", "a.py 'a $(id) b'"),
        ("a.py {steps}", "{steps}", "a.py '{steps}'"),
        ("a.py {steps}", "", "a.py ''"),
        ("a.py '{\"steps\": 1}' {steps}", "1", "a.py '{\"steps\": 1}' 1"),
    ],
)
def test_a_value_stays_within_one_argument(command, given, bound):
    found, secrets = parameters.bind([Parameter("steps")], program(command=command), {"steps": given})
    assert (found["command"], secrets) == (bound, {})


def test_a_shell_command_has_values_as_variables_alone():
    command = "echo $STEPS ${steps} {steps}"
    of = program(kind="shell", command=command, environment={"AT": "step {steps}"}, reference="b-{steps}")
    some = [Parameter("steps"), Parameter("token", "secret")]
    found, secrets = parameters.bind(some, of, {"steps": "7", "token": "hush-hush"})
    assert found["command"] == command
    assert found["environment"] == {"AT": "step 7", "STEPS": "7"}
    assert (found["reference"], secrets) == ("b-7", {"TOKEN": "hush-hush"})


def test_a_value_that_would_make_a_reference_of_something_else_is_refused():
    with pytest.raises(ValidationError):
        parameters.bind([Parameter("branch")], program(reference="{branch}"), {"branch": "--upload-pack=id"})


@pytest.mark.parametrize(
    ("some", "of", "at"),
    [
        ([Parameter("steps")], {"command": "a.py {rate}"}, {"command", "steps"}),
        ([Parameter("steps")], {}, {"steps"}),
        ([Parameter("token", "secret")], {"command": "a.py {token}"}, {"command"}),
        ([Parameter("token", "secret")], {"environment": {"TOKEN": "x"}}, {"token"}),
        ([Parameter("path")], {"kind": "shell"}, {"path"}),
        ([Parameter("steps")], {"command": "a.py {steps}"}, set()),
        ([Parameter("steps")], {"kind": "shell", "command": "awk '{print}' $STEPS"}, set()),
    ],
)
def test_what_is_wrong_with_a_template_is_said_where_it_is(some, of, at):
    assert set(parameters.check(some, program(**of))) == at


@pytest.fixture
def fields(cluster):
    return {"name": "mine", "cluster": str(cluster.uuid), "p-steps": "20"}


def test_bob_makes_a_job_of_a_template(client, bob, alice, lab, cluster, fields, rings):
    template = make_template(lab, alice)
    client.force_login(bob)
    page = client.get(reverse("template", args=[template.uuid]))
    assert 'value="10"' in page.content.decode()
    assert "1 to 500" in words(page)
    client.post(reverse("template", args=[template.uuid]), fields | {"ranks": "1", "time_limit": "7"})
    job = Job.objects.get()
    run = job.runs.get()
    assert (run.command, run.ranks, run.time_limit) == ("train.py --steps 20", 1, 420)
    assert (job.template, job.template_values, job.created_by) == (template, {"steps": "20"}, bob)
    assert "steps=20" in words(client.get(job.get_absolute_url()))
    assert Program.of_run(run).command == "train.py --steps 20", "and the run can be repeated as it was"


@pytest.mark.parametrize("given", ["", "many", "0", "501", "1.5"])
def test_a_value_that_it_may_not_have_is_said_at_its_field(client, bob, alice, lab, fields, given):
    template = make_template(lab, alice)
    client.force_login(bob)
    page = client.post(reverse("template", args=[template.uuid]), fields | {"p-steps": given})
    assert 'id="id_p-steps"' in page.content.decode()
    assert "The job was not created: one field needs a change." in words(page)
    assert not Job.objects.exists()


@pytest.mark.parametrize("given", ["1e999999999", "NaN", "Infinity", "0.1234567890123456", "1" * 31])
def test_a_number_that_would_fill_the_memory_is_none(client, bob, alice, lab, fields, given):
    template = make_template(lab, alice, Parameter("rate", "decimal"), command="train.py {rate}")
    client.force_login(bob)
    page = client.post(reverse("template", args=[template.uuid]), fields | {"p-rate": given})
    assert "one field needs a change" in words(page)
    assert not Job.objects.exists()


@pytest.mark.parametrize("count", ["", "many", "-1", "9" * 5000])
def test_a_hostile_number_of_rows_is_said_to_be_wrong(client, bob, lab, count):
    client.force_login(bob)
    for look in ({}, {"look": "typed"}):
        page = client.post(reverse("new-template", args=[lab.uuid]), {"name": "Flow", "p-TOTAL_FORMS": count, **look})
        assert page.status_code == 200
    assert not Template.objects.exists()


def test_a_secret_is_a_secret_variable_of_the_job_and_nowhere_else(client, bob, alice, lab, fields, rings):
    template = make_template(lab, alice, Parameter("token", "secret"), command="train.py")
    client.force_login(bob)
    client.post(reverse("template", args=[template.uuid]), fields | {"p-token": "hush-hush-1"})
    job = Job.objects.get()
    assert job.secret_names == ["TOKEN"]
    assert json.loads(unseal(job, "secret_values")) == {"TOKEN": "hush-hush-1"}
    assert "hush-hush-1" not in str(job.template_values) + str(list(AuditEvent.objects.values()))
    wrong = client.post(reverse("template", args=[template.uuid]), {"name": "", "p-token": "hush-hush-2"})
    assert b"hush-hush-2" not in wrong.content


def test_a_job_is_saved_as_a_template_without_its_secrets(client, bob, lab, cluster, rings):
    job, _ = create_job(
        lab, name="flow", cluster=cluster, git_url="https://example.org/a", reference="main", command="flow.py 3",
        by=bob, secrets={"KEY": "hush-hush-3"},
    )  # fmt: skip
    client.force_login(bob)
    page = client.get(reverse("template-of-job", args=[job.uuid]))
    assert "flow.py 3" in page.content.decode()
    sent = {
        "name": "Flow", "description": "Of the sea", "git_url": job.git_url, "command": "flow.py {depth}",
        "reference": "main", "kind": "python", "p-TOTAL_FORMS": "2", "p-INITIAL_FORMS": "0",
        "p-0-name": "depth", "p-0-type": "choice", "p-0-choices": "low, high",
    }  # fmt: skip
    client.post(reverse("template-of-job", args=[job.uuid]), sent)
    template = Template.objects.get()
    assert (template.name, template.cluster) == ("Flow", cluster)
    assert Parameter.read(template.parameters[0]) == Parameter("depth", "choice", "", "low", ("low", "high"))
    assert "hush" not in str(template.program)
    assert "KEY" not in str(template.program)
    client.post(reverse("edit-template", args=[template.uuid]), sent | {"name": "Flood", "p-0-default": "high"})
    template.refresh_from_db()
    assert (template.name, template.parameters[0]["default"]) == ("Flood", "high")
    assert template.program["command"] == "flow.py {depth}"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"p-0-name": "Depth!"}, "A name has small letters"),
        ({"p-0-type": "whole", "p-0-choices": "a, b"}, "the least and the most"),
        ({"p-0-type": "whole", "p-0-choices": "1.5, 2"}, "Of a whole number, give"),
        ({"p-0-type": "decimal", "p-0-choices": "NaN, 1e999999999"}, "the least and the most"),
        ({"p-0-type": "decimal", "p-0-choices": "2, 1"}, "2 is more than 1"),
        ({"p-0-type": "whole", "p-0-choices": "1, 5", "p-0-default": "9"}, "At most 5."),
        ({"p-0-type": "choice", "p-0-choices": ""}, "what may be chosen"),
        ({"p-0-type": "secret", "p-0-default": "x"}, "Everybody would see it here"),
        ({"p-1-name": "depth"}, "depth is there twice."),
        ({"command": "flow.py"}, "It is used nowhere: write {depth}"),
        ({"command": "flow.py {depth} {width}"}, "{width} names no parameter"),
        ({"name": "training"}, "There is a template of this name"),
    ],
)
def test_what_a_template_may_not_be_is_said_and_nothing_is_lost(client, bob, alice, lab, change, why):
    make_template(lab, alice)
    client.force_login(bob)
    sent = {
        "name": "Flow", "git_url": "https://example.org/a", "command": "flow.py {depth}", "kind": "python",
        "p-TOTAL_FORMS": "2", "p-INITIAL_FORMS": "0", "p-0-name": "depth", "p-0-type": "text", "p-0-help": "In fathoms",
    }  # fmt: skip
    page = client.post(reverse("new-template", args=[lab.uuid]), sent | change)
    assert why in words(page).replace("&#x27;", "'")
    assert "In fathoms" in page.content.decode()
    assert Template.objects.count() == 1


def test_a_deleted_one_makes_no_job_and_its_jobs_stay(client, bob, alice, lab, fields, rings):
    template = make_template(lab, alice)
    client.force_login(bob)
    there = reverse("template", args=[template.uuid])
    client.post(there, fields)
    client.post(reverse("delete-template", args=[template.uuid]))
    client.post(there, fields | {"name": "another"})
    assert [job.name for job in Job.objects.all()] == ["mine"]
    assert "Deleted at" in words(client.get(there))
    make_template(lab, alice)
    assert [event.verb for event in AuditEvent.objects.filter(kind="template").order_by("pk")] == [
        *("created", "deleted", "created"),
    ]


def test_vera_sees_templates_and_makes_nothing_of_them(client, vera, alice, lab, fields):
    template = make_template(lab, alice)
    client.force_login(vera)
    assert "training" in words(client.get(reverse("templates", args=[lab.uuid])))
    there = reverse("template", args=[template.uuid])
    assert b"<form" not in client.get(there).content.split(b"<main")[1].split(b"</main")[0]
    assert client.post(there, fields).status_code == 403
