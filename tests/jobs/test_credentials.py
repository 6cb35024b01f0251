"""What a job signs in to a private repository with: kept encrypted, replaced, taken away, and never shown."""

from __future__ import annotations

import json

import pytest
from django.urls import reverse

from accounts.models import AuditEvent
from jobs.models import Job, Run
from jobs.plans import launch
from portal import detached
from portal.errors import Refused
from portal.secrets import unseal
from tests.web import words

pytestmark = pytest.mark.django_db
TOKEN = 'ghp_a secret "token"'


@pytest.fixture
def create(client, lab, cluster, bob):
    def create(name="j", **fields):
        client.force_login(bob)
        basic = {"cluster": cluster.uuid, "command": "ex.py", "git_url": "https://git.example.org/x", "name": name}
        return client.post(reverse("new-job", args=[lab.uuid]), {**basic, **fields})

    return create


def events():
    return [(e.verb, e.before, e.after) for e in AuditEvent.objects.filter(kind="job").order_by("pk")]


def test_it_is_kept_encrypted_and_shown_to_nobody(client, create, bob):
    assert create(git_username="bob@example.org", git_password=TOKEN).status_code == 302
    job = Job.objects.get()
    assert TOKEN not in job.git_password
    assert unseal(job, "git_password") == TOKEN
    for page in (reverse("job", args=[job.uuid]), reverse("job-credential", args=[job.uuid])):
        shown = words(client.get(page))
        assert "as bob@example.org" in shown
        assert "ghp_" not in shown
    ((verb, _, after),) = events()
    assert (verb, after["signs in as"]) == ("created", "bob@example.org")
    assert "ghp_" not in json.dumps(after)


def test_a_token_needs_no_user_name(create):
    create(git_password=TOKEN)
    assert Job.objects.get().git_username == "git"


def test_a_job_of_a_public_repository_keeps_nothing(create):
    create()
    job = Job.objects.get()
    assert (job.git_username, job.git_password) == ("", "")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"git_username": "bob"}, "Give the password or access token of this user name."),
        ({"git_password": "a\nb"}, "This cannot have line breaks or control characters in it."),
        ({"git_username": "a\tb", "git_password": "x"}, "This cannot have line breaks or control characters in it."),
        ({"git_url": "ssh://git@git.example.org/x", "git_password": "x"}, "begins with https://"),
    ],
)
def test_what_cannot_be_is_said_at_the_field_and_the_part_is_open(create, fields, words):
    page = create(**fields).content.decode()
    assert words in page
    assert '<details class="more" open>' in page
    assert Job.objects.count() == 0


def test_a_password_that_goes_from_the_page_with_another_error_is_asked_for_again(create, lab, cluster, bob):
    answer = create(git_password=TOKEN, command="nothing")
    assert answer.context["form"].errors.keys() == {"command", "git_password"}
    assert TOKEN not in answer.content.decode()
    assert "This is not shown again: type it once more." in words(answer)
    assert "git_password" not in create(command="nothing").context["form"].errors, "none was typed"
    assert create(git_password=TOKEN).status_code == 302
    Job.objects.update(name="taken")
    assert create(name="taken", git_password=TOKEN).context["form"].errors.keys() == {"name", "git_password"}


def test_it_is_replaced_and_taken_away(client, create, bob):
    create(git_username="bob", git_password=TOKEN)
    job = Job.objects.get()
    page = reverse("job-credential", args=[job.uuid])
    assert "Give the password" in client.post(page, {"git_username": "eve", "git_password": ""}).content.decode()
    assert client.post(page, {"git_username": "eve", "git_password": "n3w"}).status_code == 302
    job.refresh_from_db()
    assert (job.git_username, unseal(job, "git_password")) == ("eve", "n3w")
    client.post(page, {"git_username": "eve", "take_away": "yes"})
    job.refresh_from_db()
    assert (job.git_username, job.git_password) == ("", "")
    assert "no: everybody may read it" in client.get(reverse("job", args=[job.uuid])).content.decode()
    assert events()[1:] == [
        ("changed credential", {"signs in as": "bob"}, {"signs in as": "eve"}),
        ("changed credential", {"signs in as": "eve"}, {}),
    ]


def test_a_repository_by_ssh_gets_no_password_later_either(client, create):
    create(git_url="ssh://git@git.example.org/x")
    page = reverse("job-credential", args=[Job.objects.get().uuid])
    assert "begins with https://" in client.post(page, {"git_password": "x"}).content.decode()
    assert Job.objects.get().git_password == ""


class Work:
    def __init__(self, run):
        self.subject = run

    def prove(self):
        pass


def test_the_node_is_given_it_apart_from_the_order(create, monkeypatch, cluster):
    create(git_username="bob", git_password=TOKEN)
    given = {}

    class Enough(Exception):
        pass

    def start(*words, **order):
        given.update(order)
        raise Enough

    monkeypatch.setattr(detached, "start", start)
    node(cluster)
    with pytest.raises(Enough):
        launch(Work(Run.objects.get()))
    assert json.loads(given.pop("secret")) == {"username": "bob", "password": TOKEN}
    assert "ghp_" not in repr(given)


def test_one_that_was_moved_from_another_job_does_not_open(create, cluster):
    create(git_password=TOKEN)
    create(name="k", git_password="other")
    mine, other = Job.objects.order_by("pk")
    Job.objects.filter(pk=mine.pk).update(git_password=other.git_password)
    node(cluster)
    with pytest.raises(Refused, match="cannot be decrypted"):
        launch(Work(Run.objects.get(job=mine.pk)))
    assert Run.objects.get(job=mine.pk).code == "credential", "its page leads to where another one is given"


def node(cluster):
    from clusters.models import Node
    from portal.secrets import seal

    seal(cluster, "key_private", "key")
    cluster.save()

    cluster.workspace.keep_login_key("login", "public")
    made = Node(cluster=cluster, rank=0, hostname="tide-0", address="127.0.0.1", home="/home/u", shared="/shared")
    seal(made, "host_private", "x")
    made.save()
