"""What runs on the head node before a run's command: the source, the packages, and what git is not allowed to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading

import pytest

from tests.gitserver import git


def given(done):
    """To the launcher."""
    return json.loads(done.stdout.splitlines()[0])


def test_it_becomes_the_launcher_in_the_clone_of_the_commit(run, repository):
    done, facts, setup = run()
    words = given(done)
    assert (words["size"], words["hostfile"]) == (6, "/home/x/hostfile")
    assert words["command"][1:] == ["ex.py", "1"]
    assert words["facts"] == facts
    assert facts["commit"] == git(repository, "rev-parse", "main")
    assert facts["subject"] == "Second, <b>bold</b>"
    assert "$ mpiexec -n 6 python ex.py 1" in setup
    assert "COXSWAIN_RUN=r1" in done.stdout


@pytest.mark.parametrize("reference", ["main", "feature/x", "v1", "short", "full"])
def test_a_reference_is_a_branch_a_tag_or_a_commit(run, repository, reference):
    first = git(repository, "rev-parse", "v1")
    reference = {"short": first[:8], "full": first}.get(reference, reference)
    _, facts, _ = run(reference=reference)
    expected = git(repository, "rev-parse", "main") if reference == "main" else first
    assert facts["commit"] == expected


@pytest.mark.parametrize("reference", ["nothing", "--upload-pack=touch pwned", "-d", "main^{/First}", "HEAD~1"])
def test_other_references_are_refused_with_words(run, repository, tmp_path, reference):
    done, facts, _ = run(reference=reference)
    assert done.returncode == 70
    assert facts["failure"]["message"]
    assert "commit" not in facts
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("url", ["ext::sh -c touch% pwned", "--upload-pack=touch pwned;", "file://{}", "{}"])
def test_urls_that_run_or_read_things_do_not(run, repository, tmp_path, url):
    done, facts, _ = run(url=url.format(repository))
    assert done.returncode == 70
    assert facts["failure"]["message"] == "A Git URL begins with https:// or ssh://."
    assert not list(tmp_path.rglob("pwned"))
    assert done.stdout == ""


def test_plain_http_to_this_machine_only_where_the_setting_says_so(run, repository):
    done, facts, _ = run(here=False)
    assert done.returncode == 70
    assert "where no Git server may be" in facts["failure"]["message"]


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0", "[::ffff:169.254.169.254]", "2852039166"])
def test_addresses_of_the_clouds_metadata_are_refused(run, repository, host):
    done, facts, _ = run(url=f"https://{host}/x")
    assert done.returncode == 70
    assert "where no Git server may be" in facts["failure"]["message"]


@pytest.mark.parametrize(
    "env",
    [
        {"GIT_SSH_COMMAND": "touch pwned"},
        {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": "touch pwned"},
        {"GIT_EXEC_PATH": "/nonexistent"},
    ],
)
def test_the_environment_of_the_run_does_not_reach_git(run, repository, tmp_path, env):
    done, facts, _ = run(env=env)
    assert done.returncode == 0
    assert facts["commit"]
    assert not list(tmp_path.rglob("pwned"))


def test_an_unknown_host_is_said_in_words(run):
    _, facts, _ = run(url="https://no-such-host.invalid/x")
    assert facts["failure"]["message"] == "no-such-host.invalid is not known."


@pytest.mark.parametrize("word", ["$(touch pwned)", "; touch pwned", "`touch pwned`", "a b", "'", "\n", "-c", "é"])
def test_the_words_of_the_command_arrive_as_they_are(run, repository, tmp_path, word):
    done, _, _ = run(command=("ex.py", word))
    assert given(done)["command"][1:] == ["ex.py", word]
    assert not list(tmp_path.rglob("pwned"))


# Mirrors: what was fetched once is fetched once, and the source is right whatever happened to it


def source_of(setup_folder):
    return (setup_folder / "src" / "ex.py").read_text()


def second_commit(repository, text):
    (repository / "ex.py").write_text(text)
    git(repository, "commit", "--quiet", "-am", text)
    git(repository, "update-server-info")
    return git(repository, "rev-parse", "main")


def objects_asked(server):
    return [path for path in server.asked if "/objects/" in path]


def mirrors(tmp_path):
    return [path for path in (tmp_path / "shared" / ".sources").iterdir() if path.is_dir()]


def test_what_a_run_has_fetched_is_not_fetched_again(run, repository, server, tmp_path):
    run()
    assert objects_asked(server)
    server.asked.clear()
    _, facts, _ = run()
    assert server.asked, "the repository itself is asked what it has"
    assert not objects_asked(server)
    assert facts["commit"] == git(repository, "rev-parse", "main")
    assert facts["subject"] == "Second, <b>bold</b>"
    assert source_of(tmp_path / "run-1") == "print('second')\n"


def test_a_branch_that_moved_is_fetched(run, repository, tmp_path):
    run()
    moved = second_commit(repository, "print('third')\n")
    _, facts, _ = run()
    assert facts["commit"] == moved
    assert source_of(tmp_path / "run-1") == "print('third')\n"


def test_a_branch_that_moved_back_is_followed_too(run, repository, tmp_path):
    run()
    first = git(repository, "rev-parse", "v1")
    git(repository, "reset", "--quiet", "--hard", "v1")
    git(repository, "update-server-info")
    _, facts, _ = run()
    assert facts["commit"] == first
    assert source_of(tmp_path / "run-1") == "print('first')\n"


def test_a_branch_that_is_gone_is_not_found_in_what_was_fetched_before(run, repository):
    run(reference="feature/x")
    git(repository, "branch", "-D", "feature/x")
    git(repository, "update-server-info")
    done, facts, _ = run(reference="feature/x")
    assert done.returncode == 70
    assert "no branch, tag or commit feature/x" in facts["failure"]["message"]


def test_the_source_is_a_repository_of_its_own(run, repository, tmp_path):
    run()
    for mirror in mirrors(tmp_path):
        shutil.rmtree(mirror)
    source = tmp_path / "run-0" / "src"
    assert git(source, "fsck", "--full") == ""
    assert git(source, "log", "-1", "--format=%s") == "Second, <b>bold</b>"
    assert git(source, "rev-parse", "origin/main") == git(repository, "rev-parse", "main")
    assert git(source, "status", "--porcelain") == ""


def break_an_object(mirror):
    for path in (mirror / "objects").rglob("*"):
        if path.is_file() and not path.name.endswith(".idx"):
            path.chmod(0o600)
            path.unlink()
            path.write_bytes(b"broken")


def leave_half_a_fetch(mirror):
    """As one that was killed leaves it: git's lock, and no listing that is believed."""
    (mirror / "packed-refs.lock").touch()
    (mirror / "listing").write_text("")


@pytest.mark.parametrize(
    "harm", [break_an_object, leave_half_a_fetch, lambda mirror: (mirror / "packed-refs").unlink(),
             lambda mirror: (mirror / "HEAD").unlink(), lambda mirror: (mirror / "listing").unlink()]
)  # fmt: skip
def test_a_mirror_that_is_broken_is_made_anew(run, repository, tmp_path, harm):
    run()
    (mirror,) = mirrors(tmp_path)
    harm(mirror)
    moved = second_commit(repository, "print('third')\n")
    for n in (1, 2):
        done, facts, _ = run()
        assert done.returncode == 0
        assert facts["commit"] == moved
        assert source_of(tmp_path / f"run-{n}") == "print('third')\n"


def test_a_run_that_is_killed_while_it_fetches_leaves_the_next_one_a_good_source(run, repository, server, tmp_path):
    started, gate = threading.Event(), threading.Event()

    def hold(path):
        if "/objects/" in path:
            started.set()
            gate.wait(20)

    run()
    moved = second_commit(repository, "print('third')\n")
    server.handler.before = staticmethod(hold)
    first = run.start()
    assert started.wait(20)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    gate.set()
    server.handler.before = None
    _, facts, _ = run()
    assert facts["commit"] == moved
    assert source_of(tmp_path / "run-2") == "print('third')\n"


def test_runs_at_once_of_one_repository_each_get_its_source(run, repository, tmp_path):
    for commit in ("print('third')\n", "print('fourth')\n"):  # without a mirror, and with one that is behind
        runs = [run.start() for _ in range(4)]
        assert [one.wait(30) for one in runs] == [0] * 4
        for one in runs:
            assert json.loads((one.folder / "facts.json").read_text())["commit"] == git(repository, "rev-parse", "main")
            assert source_of(one.folder) == (repository / "ex.py").read_text()
            assert git(one.folder / "src", "fsck", "--full") == ""
        second_commit(repository, commit)
    assert len(mirrors(tmp_path)) == 1


def test_only_so_many_mirrors_are_kept_and_the_last_ones_used(run, repository, server, tmp_path):
    for n in range(6):
        _, facts, _ = run(url=f"{server.url}/source/.git{'/' * n}", kept_most=4)
        assert facts["commit"]
        run()  # used all the time
    assert len(mirrors(tmp_path)) == 4
    server.asked.clear()
    run()
    assert not objects_asked(server)


def test_an_empty_repository_is_said_in_words(run, server, tmp_path):
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "empty")], check=True)
    git(tmp_path / "empty", "update-server-info")
    done, facts, _ = run(url=f"{server.url}/empty")
    assert done.returncode == 70
    assert facts["failure"]["message"] == "The repository is empty: it has no branch, tag or commit yet."
