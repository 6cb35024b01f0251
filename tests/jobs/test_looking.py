"""The button Check: a repository, a reference and a file are looked for with the program of the nodes."""

from __future__ import annotations

import pytest

from accounts.models import User
from jobs import looking
from jobs.actions import Credential
from jobs.looking import file_of
from jobs.models import Job
from tests.gitserver import git, serving
from workspaces.models import CloudConfig


def look(*words, by=1):
    return looking.look(*words, by=User(pk=by))


@pytest.fixture
def here(settings):
    settings.GIT_FROM_THIS_MACHINE = True
    return CloudConfig(kind="local")


def test_a_repository_says_what_a_run_would_find(here, server, repository):
    found = look(here, f"{server.url}/source/.git", "", "ex.py 1", None)
    assert found.good
    assert "“Second, <b>bold</b>”. It has ex.py." in found.message
    assert look(here, f"{server.url}/source/.git", "v1", "ex.py", None).message.startswith("v1 is ")


def test_what_is_missing_is_named(here, server, repository):
    no_file = look(here, f"{server.url}/source/.git", "main", "sub/other.py", None)
    assert (no_file.good, no_file.message) == (False, "The repository has no file sub/other.py.")
    no_branch = look(here, f"{server.url}/source/.git", "feature/y", "ex.py", None)
    assert no_branch.message == "The repository has no branch, tag or commit feature/y."
    assert "feature/x" in no_branch.evidence
    nothing = look(here, f"{server.url}/nothing", "", "ex.py", None)
    assert (nothing.good, nothing.message) == (False, "The repository cannot be read.")


def test_no_file_outside_of_the_repository_is_looked_for(here, server, repository):
    assert not look(here, f"{server.url}/source/.git", "", "../../../../etc/hostname.py/../../passwd", None).good


def test_a_password_is_in_no_word_of_what_is_said(here, server, repository):
    found = look(here, f"{server.url}/nothing", "", "ex.py", Credential("bob", "s3cret-canary"))
    assert not found.good
    assert "s3cret-canary" not in repr(found)


def test_a_private_network_is_looked_into_by_nodes_alone(settings, server, repository):
    settings.GIT_FROM_THIS_MACHINE = True
    found = look(CloudConfig(kind="aws"), f"{server.url}/source/.git", "", "ex.py", None)
    assert found.message == "127.0.0.1 is on a private network, which only the nodes can look into."
    settings.GIT_FROM_THIS_MACHINE = False
    assert "where no Git server may be" in look(CloudConfig(kind="aws"), f"{server.url}/x/y", "", "ex.py", None).message


def test_the_file_of_a_command():
    assert [file_of(text) for text in ("a/b.py 1", "-m pkg", "'x y.py'")] == ["a/b.py", "", "x y.py"]


@pytest.mark.django_db
def test_the_button_says_what_is_there_and_makes_nothing(client, settings, lab, bob, vera, server, repository):
    settings.GIT_FROM_THIS_MACHINE = True
    address = f"/workspaces/{lab.uuid}/jobs/new/"
    words = {"look": "check", "git_url": f"{server.url}/source/.git", "command": "ex.py 1", "reference": "v1"}
    client.force_login(vera)
    assert client.post(address, words).status_code in (403, 404)
    assert not server.asked
    client.force_login(bob)
    page = client.post(address, words, headers={"HX-Target": "checked"}).content.decode()
    assert "v1 is " in page
    assert "It has ex.py." in page
    assert not Job.objects.exists()


def test_commits_are_found_by_their_whole_name_and_by_its_beginning(here, server, repository, tmp_path):
    first = git(repository, "rev-parse", "v1")
    with serving(tmp_path) as smart:
        for base in (server.url, smart.url):
            for reference in (first, first[:8]):
                found = look(here, f"{base}/source/.git", reference, "ex.py", None)
                assert found.message.startswith(f"{reference} is {first[:10]}, “First”"), found
        missing = look(here, f"{smart.url}/source/.git", "0" * 40, "ex.py", None)
        assert missing.message == f"The repository has no branch, tag or commit {'0' * 40}."
