"""Git credentials that a workspace keeps, each for one server: who gives them, and what runs and Check do with them."""

from __future__ import annotations

import json

import pytest
from django.db import IntegrityError, transaction
from django.urls import reverse

from accounts.models import AuditEvent
from jobs.models import Job, Run
from jobs.plans import launch
from portal import detached
from portal.errors import Refused
from portal.secrets import CannotDecrypt, rotate, unseal
from tests.gitserver import served
from tests.jobs.test_credentials import Work, node
from tests.web import words
from workspaces.credentialforms import server_of
from workspaces.credentials import create_git_credential, delete_git_credential
from workspaces.models import GitCredential

pytestmark = pytest.mark.django_db
TOKEN = 'ghp_a saved "token"'
SERVER = "https://git.example.org"


@pytest.fixture
def saved(lab, alice):
    return create_git_credential(lab, name="build bot", server=SERVER, username="bot", secret=TOKEN, by=alice)


@pytest.fixture
def create(client, lab, cluster, bob):
    def create(name="j", **fields):
        client.force_login(bob)
        basic = {"cluster": cluster.uuid, "command": "ex.py", "git_url": f"{SERVER}/x", "name": name}
        return client.post(reverse("new-job", args=[lab.uuid]), {**basic, **fields})

    return create


@pytest.fixture
def told(monkeypatch, cluster):
    """What the node is told of a run that is launched."""
    node(cluster)

    class Enough(Exception):
        pass

    def told(run):
        given = {}

        def start(*words, **order):
            given.update(order)
            raise Enough

        monkeypatch.setattr(detached, "start", start)
        with pytest.raises(Enough):
            launch(Work(Run.objects.get(pk=run.pk)))
        secret = given.pop("secret")
        assert "ghp_" not in repr(given)
        return json.loads(secret) if secret else None

    return told


def events(kind="git credential"):
    return [(e.verb, e.before, e.after) for e in AuditEvent.objects.filter(kind=kind).order_by("pk")]


def test_an_admin_of_the_workspace_adds_replaces_and_deletes_it_and_nobody_is_shown_it(client, lab, alice):
    client.force_login(alice)
    settings = reverse("workspace-settings", args=[lab.uuid])
    typed = {"name": "build bot", "server": "git.example.org", "username": "", "secret": TOKEN}
    asked = words(client.get(reverse("new-git-credential", args=[lab.uuid])))
    assert "somebody who lays hands on it as it starts can take the secret" in asked
    answer = client.post(reverse("new-git-credential", args=[lab.uuid]), typed)
    assert answer["Location"] == f"{settings}#git-credentials"
    made = GitCredential.objects.get()
    assert (made.server, made.username, unseal(made, "secret")) == (SERVER, "git", TOKEN)
    assert "ghp_" not in made.secret
    shown = client.get(settings).content.decode()
    assert "build bot" in shown
    assert SERVER in shown
    replace = reverse("replace-git-credential", args=[made.uuid])
    assert TOKEN[:4] not in shown + client.get(replace).content.decode()
    assert client.post(replace, {"username": "bot", "secret": "n3w"}).status_code == 302
    made.refresh_from_db()
    assert (made.username, unseal(made, "secret")) == ("bot", "n3w")
    assert client.post(reverse("delete-git-credential", args=[made.uuid])).status_code == 302
    made.refresh_from_db()
    assert made.secret == ""
    assert "build bot" not in words(client.get(settings)).partition("Git credentials")[2].partition("Tasks")[0]
    assert events() == [
        ("created", {}, {"signs in as": "git", "at": SERVER}),
        ("replaced", {"signs in as": "git"}, {"signs in as": "bot"}),
        ("deleted", {"signs in as": "bot", "at": SERVER}, {}),
    ]
    client.post(reverse("new-git-credential", args=[lab.uuid]), typed)
    assert GitCredential.objects.live().get().name == "build bot", "its name is free again"


def test_what_cannot_be_is_said_and_a_form_that_is_shown_again_has_no_secret_in_it(client, lab, alice, saved):
    client.force_login(alice)
    typed = {"name": "Build Bot", "server": "ssh://git.example.org", "secret": "a\nb", "username": "x"}
    page = client.post(reverse("new-git-credential", args=[lab.uuid]), typed).content.decode()
    assert "Another one has this name." in page
    assert "asked by https://" in page
    assert "line breaks" in page
    page = client.post(reverse("new-git-credential", args=[lab.uuid]), typed | {"secret": TOKEN}).content.decode()
    assert "ghp_" not in page


@pytest.mark.parametrize(
    ("typed", "server"),
    [
        ("github.com", "https://github.com"),
        (" https://GitHub.com/team/project.git ", "https://github.com"),
        ("https://git.example.org:443", "https://git.example.org"),
        ("git.example.org:8443", "https://git.example.org:8443"),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        *((bad, None) for bad in ("", "http://git.example.org", "https://me:pw@h", "https://a b", "h:0", "-x", "h:x")),
        ("https://[", None),
    ],
)
def test_a_server_is_written_in_one_way(typed, server):
    from django.core.exceptions import ValidationError

    try:
        assert server_of(typed) == server
    except ValidationError:
        assert server is None


def test_who_may_run_jobs_chooses_it_by_name_and_a_run_signs_in_with_it(client, create, saved, told):
    page = client.get(create("other")["Location"])  # signs in
    new = reverse("new-job", args=[saved.workspace.uuid])
    assert "build bot: bot at https://git.example.org" in words(client.get(new))
    assert create(git_credential=saved.uuid).status_code == 302
    job = Job.objects.get(name="j")
    assert (job.git_credential, job.git_password) == (saved, "")
    page = client.get(reverse("job", args=[job.uuid])).content.decode()
    assert "as bot, with build bot" in page
    assert told(job.runs.get()) == {"username": "bot", "password": TOKEN}
    assert told(Job.objects.get(name="other").runs.get()) is None
    assert events("job")[-1][2]["signs in as"] == "bot, with build bot"


def test_a_new_secret_is_used_at_the_next_start(client, create, saved, told, alice):
    create(git_credential=saved.uuid)
    client.force_login(alice)
    client.post(reverse("replace-git-credential", args=[saved.uuid]), {"username": "bot", "secret": "n3w"})
    assert told(Run.objects.get()) == {"username": "bot", "password": "n3w"}


def test_a_deletion_names_the_jobs_and_their_next_start_says_what_helps(client, create, saved, cluster, alice):
    create(git_credential=saved.uuid)
    client.force_login(alice)
    page = words(client.get(reverse("delete-git-credential", args=[saved.uuid])))
    assert "1 job uses it, and fails from the next start on, until another one is chosen:" in page
    client.post(reverse("delete-git-credential", args=[saved.uuid]))
    node(cluster)
    with pytest.raises(Refused, match="build bot, which the job signs in with, was deleted"):
        launch(Work(Run.objects.get()))
    assert Run.objects.get().code == "credential", "its page leads to where another one is chosen"
    job = Job.objects.get()
    assert "with build bot, which was deleted" in words(client.get(reverse("job", args=[job.uuid])))
    assert "until another one is chosen" in words(client.get(reverse("job-credential", args=[job.uuid])))
    client.post(reverse("job-credential", args=[job.uuid]), {"git_password": "own"})
    job.refresh_from_db()
    assert (job.git_credential, unseal(job, "git_password")) == (None, "own")


def test_it_goes_to_no_other_server(client, create, saved, told):
    page = create(git_credential=saved.uuid, git_url="https://evil.example.org/x").content.decode()
    assert "build bot is for https://git.example.org, and goes to no other server." in page
    assert (
        "build bot is for"
        in create(git_credential=saved.uuid, git_url="https://git.example.org:8443/x").content.decode()
    )
    assert not Job.objects.exists()
    create(git_credential=saved.uuid)
    job = Job.objects.get()
    Run.objects.update(git_url="https://evil.example.org/x")  # as of a run of before the address was changed
    assert told(Run.objects.get()) is None
    edit = {"name": "j", "cluster": job.cluster.uuid, "command": "ex.py", "git_url": "https://evil.example.org/x"}
    assert client.post(reverse("edit-job", args=[job.uuid]), edit).status_code == 302
    job.refresh_from_db()
    assert job.git_credential is None
    assert events("job")[-1][1]["signs in as"] == "bot, with build bot"


def test_one_that_was_given_another_server_in_the_database_does_not_open(create, saved, cluster):
    create(git_credential=saved.uuid)
    GitCredential.objects.update(server="https://evil.example.org")
    Run.objects.update(git_url="https://evil.example.org/x")
    node(cluster)
    with pytest.raises(Refused, match="build bot cannot be decrypted"):
        launch(Work(Run.objects.get()))
    with pytest.raises(CannotDecrypt):
        unseal(GitCredential.objects.get(), "secret")


def test_one_of_another_workspace_or_a_deleted_one_cannot_be_chosen(create, saved, harbor, this_computer, alice):
    from workspaces.models import Workspace

    other = Workspace.objects.create(organization=harbor, cloud_config=this_computer, name="other", region="here")
    theirs = create_git_credential(other, name="t", server=SERVER, username="t", secret="x", by=alice)
    assert create(git_credential=theirs.uuid).status_code == 200
    delete_git_credential(saved, by=alice)
    assert "It was deleted meanwhile." in create(git_credential=saved.uuid).content.decode()
    assert not Job.objects.exists()


def test_one_or_a_password_and_not_both(create, saved, client):
    assert "not both" in create(git_credential=saved.uuid, git_password="x").content.decode()
    create(git_password="own")
    job = Job.objects.get()
    client.post(reverse("job-credential", args=[job.uuid]), {"git_credential": saved.uuid})
    job.refresh_from_db()
    assert (job.git_credential, job.git_username, job.git_password) == (saved, "", "")
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.update(git_password="x")


def test_a_deleted_job_uses_none(client, create, saved):
    create(git_credential=saved.uuid)
    client.post(reverse("delete-job", args=[Job.objects.get().uuid]))
    assert Job.objects.get().git_credential is None


def test_keys_are_rotated(saved, settings):
    settings.ENCRYPTION_KEYS = ["a newer key of thirty-two characters", *settings.ENCRYPTION_KEYS]
    assert {found.name: found.renewed for found in rotate()}["workspaces.GitCredential.secret"] == 1
    assert unseal(GitCredential.objects.get(), "secret") == TOKEN


def test_check_signs_in_with_the_chosen_one_or_that_of_the_job(client, settings, lab, bob, alice, create):
    settings.GIT_FROM_THIS_MACHINE = True
    with served({"ex.py": "print()"}, asks_for=("bot", TOKEN)) as url:
        saved = create_git_credential(lab, name="b", server=server_of(url), username="bot", secret=TOKEN, by=alice)
        client.force_login(bob)
        new = reverse("new-job", args=[lab.uuid])
        typed = {"look": "check", "git_url": url, "command": "ex.py"}
        checked = {"headers": {"HX-Target": "checked"}}
        assert "It has ex.py." not in client.post(new, typed, **checked).content.decode()
        page = client.post(new, {**typed, "git_credential": saved.uuid}, **checked).content.decode()
        assert "It has ex.py." in page
        elsewhere = {**typed, "git_credential": saved.uuid, "git_url": "https://evil.example.org/x"}
        assert "goes to no other server" in client.post(new, elsewhere, **checked).content.decode()
        create(git_credential=saved.uuid, git_url=url)
        edit = reverse("edit-job", args=[Job.objects.get().uuid])
        assert "It has ex.py." in client.post(edit, typed, **checked).content.decode()
        delete_git_credential(saved, by=alice)
        assert "was deleted" in client.post(edit, typed, **checked).content.decode()
