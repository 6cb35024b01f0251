"""What people do to each other by templates and jobs: what they change while somebody looks at them, and what they fill
in."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.core.exceptions import ValidationError
from django.urls import reverse

from jobs import parameters
from jobs.actions import Credential, change_credential, change_job, change_secrets, create_job, delete_job
from jobs.models import Job, Template
from jobs.parameters import Parameter
from jobs.templates import change_template
from portal.errors import PortalError
from tests.jobs.conftest import idle_cluster, make_template
from tests.web import words

pytestmark = pytest.mark.django_db
OURS, THEIRS = "https://git.example.org/x", "https://evil.example.net/x"


@pytest.fixture
def cluster(lab, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    return idle_cluster(lab)


def hidden(page):
    """What a browser sends of the form that it does not show."""
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.content.decode())
    return {name: unescape(value) for name, value in fields if name in ("version", "source")}


CHANGES = [{"git_url": THEIRS}, {"command": "steal.py {steps}"}, {"environment": {"TO": "{steps}"}}]


@pytest.mark.parametrize("change", CHANGES)
def test_no_password_goes_where_a_template_leads_since_it_was_opened(client, bob, alice, lab, cluster, change):
    made = make_template(lab, alice)
    client.force_login(bob)
    address = reverse("template", args=[made.uuid])
    shown = hidden(client.get(address))
    steps = [Parameter.read(one) for one in made.parameters]
    change_template(made, name="training", description="", parameters=steps, program=made.program | change, by=alice)
    typed = {"name": "mine", "cluster": str(cluster.uuid), "p-steps": "20", "git_password": "ghp_bobs own"}
    page = client.post(address, typed | shown)
    assert "The template was changed since you opened it" in words(page)
    assert "ghp_" not in page.content.decode()
    assert not Job.objects.exists()
    client.post(address, typed | hidden(page))
    assert Job.objects.get().git_url == change.get("git_url", made.program["git_url"]), "who has seen it, goes on"


@pytest.fixture
def job(lab, alice, cluster):
    made, _ = create_job(lab, name="j", cluster=cluster, git_url=OURS, reference="", command="a.py", by=alice)
    return made


def test_no_password_is_kept_for_where_a_job_leads_since_its_form_was_opened(client, bob, alice, job):
    client.force_login(bob)
    address = reverse("job-credential", args=[job.uuid])
    shown = hidden(client.get(address))
    change_job(job, git_url=THEIRS, by=alice)
    page = client.post(address, {"git_password": "ghp_bobs own"} | shown)
    assert "The job has another source since you opened this" in words(page)
    assert THEIRS in words(page)
    assert not Job.objects.exclude(git_password="").exists()
    client.post(address, {"git_password": "ghp_bobs own"} | hidden(page))
    assert Job.objects.exclude(git_password="").exists(), "who has seen it, goes on"


def test_nor_where_that_changes_at_the_same_moment_nor_for_a_job_that_is_deleted(job, alice, bob):
    seen = Job.objects.select_related("workspace__organization").get()
    change_job(job, git_url=THEIRS, by=alice)
    with pytest.raises(PortalError, match="was changed meanwhile, to https://evil"):
        change_credential(seen, Credential("bob", "ghp_bobs own"), by=bob)
    seen.refresh_from_db()
    delete_job(job, by=alice)
    with pytest.raises(PortalError, match="was deleted"):
        change_credential(seen, Credential("bob", "ghp_bobs own"), by=bob)
    with pytest.raises(PortalError, match="was deleted"):
        change_secrets(seen, {"TOKEN": "s3cret"}, by=bob)
    assert not Job.objects.exclude(git_password="", secret_values="").exists()


@pytest.mark.parametrize(
    ("typed", "says"),
    [("☂", "shorter than 4"), ("x" * 40_000, "at most 32 kB"), ("é" * 20_000, "at most 32 kB")],
)
def test_a_secret_of_a_template_is_no_other_than_one_of_a_job(client, bob, alice, lab, cluster, typed, says):
    """A shorter one could not be kept out of what programs print; a longer one is no variable that a program has."""
    made = make_template(lab, alice, Parameter("token", "secret"), command="train.py")
    client.force_login(bob)
    fields = {"name": "mine", "cluster": str(cluster.uuid), "p-token": typed}
    page = client.post(reverse("template", args=[made.uuid]), fields)
    assert says in words(page)
    assert typed not in page.content.decode()
    assert not Job.objects.exists()


def test_all_secrets_of_a_template_together_are_no_more_than_those_of_a_job():
    many = [Parameter(f"s{n}", "secret") for n in range(parameters.MOST)]
    program = {"kind": "shell", "command": "true", "reference": "", "environment": {}}
    with pytest.raises(ValidationError, match="at most 32 kB"):
        parameters.bind(many, program, {one.name: "x" * 2000 for one in many})


def test_a_template_has_no_hundred_thousand_choices(client, bob, alice, lab, cluster):
    client.force_login(bob)
    rows = {"p-TOTAL_FORMS": "1", "p-INITIAL_FORMS": "0", "p-0-name": "steps", "p-0-type": "choice"}
    fields = {"name": "flow", "git_url": OURS, "command": "a.py {steps}", **rows}
    address = reverse("new-template", args=[lab.uuid])
    page = client.post(address, fields | {"p-0-choices": ",".join(map(str, range(100_000)))})
    assert "At most 100 choices; these are 100,000." in words(page)
    assert not Template.objects.exists()
    client.post(address, fields | {"p-0-choices": ",".join(map(str, range(100)))})
    assert len(Template.objects.get().parameters[0]["choices"]) == 100
