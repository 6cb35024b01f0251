"""A job whose source is a folder of the workspace's filesystem: each run has a copy, and says what was in it."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from django.core.exceptions import ValidationError
from django.urls import reverse

from clusters.models import Cluster, EngineVersion
from jobs import rules
from jobs.models import Job

PROJECT = "/shared/team/project"


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "shared" / "team" / "project"
    (folder / "lib").mkdir(parents=True)
    (folder / "ex.py").write_text("import lib.one\n")
    (folder / "lib" / "one.py").write_text("print('one')\n")
    (folder / "go").write_text("#!/bin/sh\n")
    (folder / "go").chmod(0o755)
    (folder / "same").symlink_to(folder / "lib" / "one.py")
    (tmp_path / "shared" / "secret").write_text("elsewhere")
    return folder


def test_a_run_has_a_copy_and_says_how_much_and_what_it_is(run, project):
    done, facts, setup = run(url=PROJECT)
    given = json.loads(done.stdout.splitlines()[0])
    copy = project.__class__(given["source"])
    assert (copy / "lib" / "one.py").read_text() == "print('one')\n"
    assert os.access(copy / "go", os.X_OK)
    assert (copy / "same").resolve() == copy / "lib" / "one.py", "it stays in the copy"
    (project / "ex.py").write_text("other\n")
    assert (copy / "ex.py").read_text() == "import lib.one\n"
    found = re.fullmatch(r"3 files, 38 bytes, sha256 ([0-9a-f]{64})", facts["subject"])
    assert facts["commit"] == found[1][:40]
    assert f"Copied {PROJECT}: 3 files, 38 bytes, sha256 {found[1]}" in setup


def test_the_same_contents_are_the_same_and_others_are_not_run_as_exactly_this(run, project):
    _, facts, _ = run(url=PROJECT)
    shutil.copytree(project, project.parent / "moved", symlinks=False)
    assert run(url=PROJECT, reference=facts["commit"])[1]["commit"] == facts["commit"]
    (project / "lib" / "one.py").chmod(0o755)
    done, changed, _ = run(url=PROJECT, reference=facts["commit"])
    assert done.returncode == 70
    assert changed["failure"]["message"] == f"What is in {PROJECT} is no longer what it was."


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/shared/team/nothing", "/shared/team/nothing is not there."),
        ("/shared/team/project/ex.py", "/shared/team/project/ex.py is a file: name its folder as the path."),
        ("/shared/team/../../x", "/shared/team/../../x is no folder in /shared."),
        ("/shared/.runs/r", "/shared/.runs/r is the portal's own."),
        ("/shared/out", "/shared/out leads out of /shared."),
        ("/shared/own", "/shared/own is the portal's own."),
    ],
)
def test_other_paths_are_refused_in_words(run, project, tmp_path, path, words):
    (tmp_path / "shared" / ".runs" / "r").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "shared" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "shared" / "own").symlink_to(".runs/r")
    done, facts, _ = run(url=path)
    assert (done.returncode, facts["failure"]["message"], facts["failure"]["code"]) == (70, words, "address")
    if "nothing" in path:
        assert facts["failure"]["evidence"] == "Beside it: project"


@pytest.mark.parametrize("target", ["../../secret", "/etc/hostname", "../other"])
def test_no_link_in_it_leads_out(run, project, target):
    (project / "out").symlink_to(target)
    done, facts, _ = run(url=PROJECT)
    assert facts["failure"]["message"] == f"out in {PROJECT} is a link that leads out of it."
    assert done.returncode == 70


def test_what_is_no_file_is_named_and_not_waited_for(run, project):
    os.mkfifo(project / "pipe")
    assert "neither a file nor a folder" in run(url=PROJECT)[1]["failure"]["message"]


@pytest.mark.parametrize(
    ("most", "words"),
    [
        ({"source_bytes": 20}, "is more than 20 bytes."),
        ({"source_files": 3}, "has more than 3 files and folders."),
        ({"source_seconds": 0}, "takes too long to copy."),
    ],
)
def test_too_much_is_said_with_what_to_do(run, project, most, words):
    done, facts, _ = run(url=PROJECT, **most)
    assert facts["failure"]["message"] == f"{PROJECT} {words}"
    assert "data it can read in /shared" in facts["failure"]["advice"]
    assert done.returncode == 70


def test_of_a_folder_in_which_too_many_are_nothing_is_copied(run, project):
    """It is not read to its end, either, which would take memory and time for all that is there."""
    many = project.parent / "many"
    many.mkdir()
    for n in range(20):
        (many / f"{n:02}").write_text("x")
    done, facts, _ = run(url="/shared/team/many", source_files=10)
    assert facts["failure"]["message"] == "/shared/team/many has more than 10 files and folders."
    assert not list(project.parent.parent.parent.rglob("src/0*"))
    assert done.returncode == 70


def test_a_folder_has_no_branches(run, project):
    assert "has no branch" in run(url=PROJECT, reference="main")[1]["failure"]["message"]


@pytest.mark.parametrize("typed", ["/shared", "/etc/x", "/shared/../x", "/shared//x", "/shared/.runs", "/shared/a\0b"])
def test_the_form_takes_no_other_path(typed):
    with pytest.raises(ValidationError):
        rules.address(typed)
    assert rules.address(" /shared/team/my project/ ").git_url == "/shared/team/my project"


@pytest.mark.django_db
def test_a_job_of_it_is_made_with_the_form(client, lab, bob, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip
    client.force_login(bob)
    new = reverse("new-job", args=[lab.uuid])
    typed = {"name": "j", "cluster": cluster.uuid, "command": "ex.py", "git_url": PROJECT}
    assert "leave this empty" in client.post(new, {**typed, "reference": "main"}).content.decode()
    assert "begins with https://" in client.post(new, {**typed, "git_password": "x"}).content.decode()
    checked = client.post(new, {**typed, "look": "check"}, headers={"HX-Target": "checked"}).content.decode()
    assert "is seen when the job runs" in checked
    assert client.post(new, typed).status_code == 302
    job = Job.objects.get()
    assert (job.git_url, job.runs.get().git_url) == (PROJECT, PROJECT)
    page = client.get(reverse("job", args=[job.uuid])).content.decode()
    assert PROJECT in page
    assert "Signs in" not in page


def test_two_folders_that_differ_never_have_one_checksum(run, project):
    """A name, or where a link leads, may have a line break in it; it is not read as the next name."""
    for name in ("one", "other"):
        (project.parent / name).mkdir()
    (project.parent / "one" / "a").symlink_to("x\ny")
    (project.parent / "one" / "z").write_text("")
    (project.parent / "other" / "a").symlink_to("x")
    (project.parent / "other" / "y\nz").write_text("")
    _, one, _ = run(url="/shared/team/one")
    _, other, _ = run(url="/shared/team/other")
    assert one["commit"] != other["commit"]
