"""Where a run's source comes from: addresses that moved, names of all kinds, submodules, servers that hang."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.gitserver import git, serving
from tests.machines.house import serving_at
from tests.running import ROOT, until

from .conftest import PLACES


@pytest.fixture
def smart(tmp_path, repository):
    """The repository, as a server of Git serves it: at /source/.git."""
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def other(tmp_path):
    with serving(tmp_path) as server:
        yield server


def ex(folder):
    return (folder / "src" / "ex.py").read_text()


# Redirects


def test_a_redirect_on_the_same_host_is_followed(run, smart, tmp_path, repository):
    smart.moved["/group/name/"] = f"{smart.url}/source/.git/"
    _, facts, setup = run(url=f"{smart.url}/group/name")
    assert facts["commit"] == git(repository, "rev-parse", "main")
    assert ex(tmp_path / "run-0") == "print('second')\n"
    assert f"{smart.url}/group/name is at {smart.url}/source/.git now" in setup


def test_a_redirect_may_leave_out_the_host_and_be_followed_by_another(run, smart, repository):
    smart.moved.update({"/old/": "/older/", "/older/": f"{smart.url}/source/.git/"})
    _, facts, _ = run(url=f"{smart.url}/old")
    assert facts["commit"] == git(repository, "rev-parse", "main")


def test_what_was_fetched_by_one_of_its_addresses_is_there_for_the_others(run, smart):
    smart.moved["/group/name/"] = f"{smart.url}/source/.git/"
    _, _, setup = run(url=f"{smart.url}/source/.git")
    assert "Cloning" in setup
    _, facts, setup = run(url=f"{smart.url}/group/name")
    assert facts["commit"]
    assert "Cloning" not in setup


def test_a_redirect_to_another_server_is_used_when_a_person_could_have_typed_it(run, smart, other, repository):
    smart.moved["/moved/"] = f"{other.url}/source/.git/"
    _, facts, _ = run(url=f"{smart.url}/moved")
    assert facts["commit"] == git(repository, "rev-parse", "main")


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("http://169.254.169.254/latest/", "where no Git server may be"),
        ("https://[fe80::1]/x/", "where no Git server may be"),
        ("http://8.8.8.8/x/", "Plain http is only for"),
        ("file:///etc/", "begins with https://"),
        ("ssh://git@127.0.0.1/x/", "Plain http is only for"),
        ("http://me:secret@127.0.0.1/x/", "no user name and password"),
        ("http://no-such-host.invalid/x/", "is not known"),
    ],
)
def test_other_redirects_are_refused_with_where_they_lead(run, smart, to, why):
    smart.moved["/moved/"] = to
    done, facts, setup = run(url=f"{smart.url}/moved")
    assert done.returncode == 70
    assert facts["failure"]["message"].startswith("127.0.0.1 leads to ")
    assert why in facts["failure"]["message"]
    assert "secret" not in setup + json.dumps(facts)


def test_a_redirect_to_a_page_is_no_repository(run, smart):
    smart.moved["/private/info/refs"] = "/users/sign_in"
    smart.moved["/private/"] = "/users/sign_in/"
    _, facts, _ = run(url=f"{smart.url}/private")
    assert "which is no repository" in facts["failure"]["message"]


def test_redirects_in_a_circle_end(run, smart):
    smart.moved.update({"/a/": "/b/", "/b/": "/a/"})
    _, facts, _ = run(url=f"{smart.url}/a")
    assert facts["failure"]["message"] == "127.0.0.1 redirects more than 5 times."


def test_a_server_may_have_an_ipv6_address(run, tmp_path, repository):
    with serving(tmp_path, "::1") as server:
        _, facts, setup = run(url=f"{server.url}/source/.git")
        assert facts.get("commit") == git(repository, "rev-parse", "main"), setup


@pytest.mark.parametrize(
    "url",
    ["https://%31%36%39.254.169.254/x", "https://example.org./x", "https://h,g/x", "https://-h/x", "https://[::1%25lo]/x",
     "https://h/a b", "https://h/\x1b[31m", "https://h:99999/x", "https://a\\b/x"],
)  # fmt: skip
def test_other_spellings_of_hosts_are_no_addresses(run, url):
    done, facts, _ = run(url=url)
    assert done.returncode == 70
    assert facts["failure"]["message"] == "This is not a web address."


@pytest.mark.parametrize(
    "host", ["fd00:ec2::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:7f00:1", "fe80::1", "::"]
)
def test_what_an_ipv6_address_stands_for_is_looked_at(run, host):
    _, facts, _ = run(url=f"https://[{host}]/x", here=False)
    assert "where no Git server may be" in facts["failure"]["message"]


def test_a_name_that_only_the_proxy_knows_is_the_proxys_to_find(run):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        asked = []

        def answer():
            while True:  # of those that ask at once, one is ended when the other has its answer
                connection, _ = proxy.accept()
                with connection, contextlib.suppress(OSError):
                    asked.append(connection.recv(1000).split(b"\r\n")[0])
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        env = {"https_proxy": f"http://127.0.0.1:{proxy.getsockname()[1]}", "no_proxy": "", "NO_PROXY": ""}
        _, facts, _ = run(url="https://no-such-host.invalid/x", env=env)
        assert facts["failure"]["message"] == "The source could not be cloned."
        assert set(asked) - {b""} == {b"CONNECT no-such-host.invalid:443 HTTP/1.1"}
        _, facts, _ = run(url="https://169.254.169.254/x", env=env)
        assert "where no Git server may be" in facts["failure"]["message"]
        _, facts, _ = run(url="https://no-such-host.invalid/x", env={**env, "no_proxy": ".invalid"})
        assert facts["failure"]["message"] == "no-such-host.invalid is not known."


# References


@pytest.fixture
def odd(tmp_path, smart, repository):
    """The repository, with the commit of a pull request that no branch has, and names that mislead."""
    git(repository, "checkout", "--quiet", "--detach")
    (repository / "ex.py").write_text("print('asked for')\n")
    git(repository, "commit", "--quiet", "-am", "Between")
    between = git(repository, "rev-parse", "HEAD")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Pull me")
    git(repository, "update-ref", "refs/pull/8/head", "HEAD")
    git(repository, "update-ref", "refs/merge-requests/3/head", "HEAD")
    asked = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "main")
    first = git(repository, "rev-parse", "v1")
    git(repository, "branch", first[:7], "main")
    git(repository, "branch", "both", "v1")
    git(repository, "tag", "both", "main")
    git(repository, "tag", "-m", "Signed", "signed", "v1")
    git(repository, "tag", "tree", "main^{tree}")
    git(repository, "update-server-info")
    return {"first": first, "second": git(repository, "rev-parse", "main"), "asked": asked, "between": between}


@pytest.mark.parametrize(
    ("reference", "commit"),
    [
        ("refs/heads/main", "second"), ("heads/main", "second"), ("origin/main", "second"), ("HEAD", "second"),
        ("refs/remotes/origin/feature/x", "first"), ("refs/tags/v1", "first"), ("tags/v1", "first"),
        ("signed", "first"), ("refs/pull/8/head", "asked"), ("pull/8/head", "asked"), ("both", "first"),
        ("merge-requests/3/head", "asked"), ("{first}", "first"), ("{FIRST}", "first"), ("{asked}", "asked"),
        ("{ASKED}", "asked"), ("{asked:.9}", "asked"), ("{between}", "between"), ("{first:.7}", "second"),
        ("{first:.8}", "first"),
    ],
)  # fmt: skip
def test_what_git_can_find_is_found(run, smart, odd, reference, commit):
    reference = reference.format(**odd, **{name.upper(): sha.upper() for name, sha in odd.items()})
    for _ in range(2):  # without a mirror, and with one
        _, facts, setup = run(url=f"{smart.url}/source/.git", reference=reference)
        assert facts.get("commit") == odd[commit], setup


def test_a_pull_request_is_found_where_the_server_only_has_files(run, server, odd):
    for reference, commit in ((odd["asked"][:9], "asked"), (odd["between"], "between"), ("pull/8/head", "asked")):
        _, facts, setup = run(reference=reference)
        assert facts.get("commit") == odd[commit], setup


def test_which_of_two_was_taken_is_said(run, smart, odd):
    _, _, setup = run(url=f"{smart.url}/source/.git", reference="both")
    assert "both is a branch and a tag: this is the branch, the tag is refs/tags/both" in setup
    _, _, setup = run(url=f"{smart.url}/source/.git", reference=odd["first"][:7])
    assert "is a branch or tag and the beginning of a commit" in setup


def test_where_none_is_named_main_is_the_main_branch(run, smart, repository):
    (repository / ".git" / "HEAD").write_text("ref: refs/heads/gone\n")
    _, facts, setup = run(url=f"{smart.url}/source/.git")
    assert facts.get("commit") == git(repository, "rev-parse", "main"), setup
    assert "does not say which is its main branch: this is refs/heads/main" in setup
    git(repository, "branch", "-m", "main", "trunk")
    _, facts, _ = run(url=f"{smart.url}/source/.git")
    assert facts["failure"]["message"] == "The repository does not say which is its main branch."
    assert "trunk" in facts["failure"]["evidence"]


def test_a_tag_of_something_else_is_said(run, smart, odd):
    _, facts, _ = run(url=f"{smart.url}/source/.git", reference="tree")
    assert facts["failure"]["message"] == "tree is the name of something that is no commit."


def test_of_a_name_that_is_not_there_those_are_said_that_are(run, smart, odd):
    done, facts, _ = run(url=f"{smart.url}/source/.git", reference="featurex")
    assert done.returncode == 70
    assert facts["failure"]["message"] == "The repository has no branch, tag or commit featurex."
    like, branches, tags = facts["failure"]["evidence"].splitlines()
    assert like == "Like it: feature/x"
    assert "main" in branches
    assert "v1" in tags


def test_the_beginning_of_several_commits_is_said(run, server, repository):
    listing = (repository / ".git" / "info" / "refs").read_text()
    first, second = git(repository, "rev-parse", "v1"), git(repository, "rev-parse", "main")
    made = f"abcdef0{first[7:]}\trefs/pull/1/head\nabcdef0{second[7:]}\trefs/pull/2/head\n"
    (repository / ".git" / "info" / "refs").write_text(listing + made)
    _, facts, _ = run(reference="abcdef0")
    assert facts["failure"]["message"] == "abcdef0 is the beginning of several commits."


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9", b"x" * 251, b"/".join([b"y" * 100] * 30), b"HEAD", b"a\x1b[31mred", b"z" * 255 + b"/x", b"ends.lock",
     b".hidden", b"two..dots", b"feature", b"feature/x/under", b"\xff\xfe", "ñandú/日本".encode()],
)  # fmt: skip
def test_others_may_name_their_branches_as_they_like(run, server, repository, tmp_path, name):
    refs = repository / ".git" / "info" / "refs"
    commit = git(repository, "rev-parse", "main")
    refs.write_bytes(refs.read_bytes() + commit.encode() + b"\trefs/heads/" + name + b"\n")
    for n in range(2):
        done, facts, setup = run()
        assert done.returncode == 0, setup
        assert facts["commit"] == commit
        assert git(tmp_path / f"run-{n}" / "src", "rev-parse", "origin/main") == commit


def test_a_branch_of_a_long_name_can_be_run(run, server, repository):
    refs = repository / ".git" / "info" / "refs"
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Of its own")
    git(repository, "update-server-info")
    commit, before = git(repository, "rev-parse", "HEAD"), git(repository, "rev-parse", "HEAD~1")
    refs.write_text(refs.read_text().replace(commit, before) + f"{commit}\trefs/heads/{'x' * 251}\n")
    _, facts, setup = run(reference="x" * 251)
    assert facts.get("commit") == commit, setup


# Submodules, and what is kept elsewhere


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "library"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "lib.py").write_text("X = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Library")
    return folder


def add_submodule(folder, path, url, commit, **more):
    """As `git submodule add`, of an address that need not be reached."""
    (folder / path).mkdir(parents=True, exist_ok=True)
    for name, value in {"path": path, "url": url, **more}.items():
        git(folder, "config", "--file", ".gitmodules", f"submodule.{path}.{name}", value)
    git(folder, "add", ".gitmodules")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    git(folder, "commit", "--quiet", "-m", f"With {path}")
    git(folder, "update-server-info")


@pytest.mark.parametrize("url", ["{server}/library/.git", "../../library/.git", "{server}/moved"])
def test_submodules_are_fetched_at_the_commit_that_is_wanted(run, smart, repository, library, tmp_path, url):
    smart.moved["/moved/"] = "/library/.git/"
    add_submodule(repository, "vendor/lib", url.format(server=smart.url), git(library, "rev-parse", "main"))
    (library / "lib.py").write_text("X = 2\n")
    git(library, "commit", "--quiet", "-am", "Later")
    for n in range(2):
        done, _, setup = run(url=f"{smart.url}/source/.git")
        assert done.returncode == 0
        assert (tmp_path / f"run-{n}" / "src" / "vendor" / "lib" / "lib.py").read_text() == "X = 1\n", setup
        assert git(tmp_path / f"run-{n}" / "src", "status", "--porcelain") == ""


def test_submodules_in_submodules_are_fetched_too(run, smart, repository, library, tmp_path):
    add_submodule(repository, "inner", "../../library/.git", git(library, "rev-parse", "main"))
    outer = tmp_path / "outer"
    subprocess.run(["git", "clone", "--quiet", str(library), str(outer)], check=True)
    add_submodule(outer, "mid", "../../source/.git", git(repository, "rev-parse", "main"))
    _, _, setup = run(url=f"{smart.url}/outer/.git")
    assert (tmp_path / "run-0" / "src" / "mid" / "inner" / "lib.py").exists(), setup


def test_a_submodule_of_itself_comes_to_an_end(run, smart, repository, tmp_path):
    for n in range(8):
        add_submodule(repository, "me", "../.git", git(repository, "rev-parse", "main"))
        (repository / "count").write_text(str(n))
        git(repository, "add", "count")
        git(repository, "commit", "--quiet", "-m", "More")
    done, _, setup = run(url=f"{smart.url}/source/.git")
    assert done.returncode == 0
    assert "The submodule me is not fetched: It is one of more than 100, or more than 5 deep." in setup


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://169.254.169.254/x", "where no Git server may be"),
        ("file:///etc", "begins with https://"),
        ("/etc", "begins with https://"),
        ("ext::sh -c touch% pwned", "begins with https://"),
        ("-u./pwned", "begins with https://"),
        ("https://me:secret@example.org/x", "no user name and password"),
        ("git@no-such-host.invalid:x/y.git", "no-such-host.invalid is not known"),
        ("../../../../../x", "leads out of"),
        ("{server}/nothing", "not found"),
    ],
)
def test_a_submodule_that_may_not_be_is_named_and_the_run_goes_on(run, smart, repository, tmp_path, url, why):
    add_submodule(repository, "vendor/lib", url.format(server=smart.url), git(repository, "rev-parse", "main"))
    done, facts, setup = run(url=f"{smart.url}/source/.git")
    assert done.returncode == 0
    assert facts["commit"] == git(repository, "rev-parse", "main")
    (line,) = [line for line in setup.splitlines() if line.startswith("The submodule")]
    assert line.startswith("The submodule vendor/lib is not fetched: ")
    assert why in line
    assert "secret" not in setup
    assert not list(tmp_path.rglob("pwned"))


def test_a_submodule_that_git_does_not_want_or_know_is_named(run, smart, repository):
    add_submodule(repository, "unwanted", "../../library/.git", git(repository, "rev-parse", "main"), update="none")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},unknown")
    git(repository, "commit", "--quiet", "-m", "Of no address")
    _, _, setup = run(url=f"{smart.url}/source/.git")
    assert "The submodule unwanted is not fetched: .gitmodules says that it is not wanted." in setup
    assert "The submodule unknown is not fetched: .gitmodules does not say where it is." in setup


def test_the_addresses_of_ssh_users_are_those_of_the_same_server(run, smart, repository):
    """Nodes have no keys. Asked where they have it, for only https can be compared here."""
    code = "import addresses as a; print(a.of_submodule('git@h.example:g/x.git', 'https://h.example/g/y'))"
    code += "; print(a.of_submodule('git@other.example:g/x.git', 'https://h.example/g/y'))"
    place = ROOT / "jobs" / "onnode"
    done = subprocess.run(["python3", "-c", code], cwd=place, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["https://h.example/g/x.git", "ssh://git@other.example/g/x.git"]


def test_files_that_are_kept_elsewhere_are_named(run, smart, repository):
    (repository / "data").mkdir()
    (repository / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    for n in range(5):
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
        (repository / "data" / f"{n}.bin").write_text(text)
    (repository / "data" / "real.bin").write_text("here")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Data")
    _, _, setup = run(url=f"{smart.url}/source/.git")
    assert "Git LFS keeps data/0.bin, data/1.bin, data/2.bin and 2 more elsewhere: not fetched" in setup


# Servers that hang


@pytest.fixture
def deaf():
    """A server that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x"


@pytest.mark.parametrize("order", [{"git_seconds": 1}, {"git_silence_seconds": 1}])
def test_a_server_that_never_answers_is_named(run, deaf, tmp_path, order):
    done, facts, _ = run(url=deaf, **order)
    assert done.returncode == 70
    assert facts["failure"]["message"] == "Git waited 1 s for 127.0.0.1, and was ended."
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("order", [{"git_seconds": 2}, {"git_silence_seconds": 1}])
def test_a_server_that_hangs_in_the_middle_is_named_and_git_ended(run, smart, repository, order):
    gate = threading.Event()
    smart.before = lambda path: path.endswith("git-upload-pack") and len(smart.asked) > 2 and gate.wait(20)
    process = run.start(url=f"{smart.url}/source/.git", **order)
    assert process.wait(20) == 70
    gate.set()
    facts = json.loads((process.folder / "facts.json").read_text())
    assert re.fullmatch(r"Git waited [1-9] s for 127\.0\.0\.1, and was ended\.", facts["failure"]["message"])
    alive = ["pgrep", "--pgroup", str(process.pid), "--runstates", "R,S,D"]
    assert not subprocess.run(alive, capture_output=True, text=True, check=False).stdout


def test_a_run_that_waits_for_anothers_mirror_says_so_and_ends(run, smart, tmp_path):
    url = f"{smart.url}/source/.git"
    run(url=url)
    (lock,) = (tmp_path / "shared" / ".sources").glob("*.lock")
    with subprocess.Popen(["flock", str(lock), "sleep", "60"]) as holding:
        until(lambda: subprocess.run(["flock", "-n", str(lock), "true"]).returncode, what="the lock")
        done, facts, setup = run(url=url, git_seconds=2)
        holding.kill()
        subprocess.run(["pkill", "-P", str(holding.pid)], check=False)
    assert done.returncode == 70
    assert "Waiting for another run, which has the mirror" in setup
    assert f"Another run has the mirror of {url} for itself" in facts["failure"]["message"]


def test_a_run_that_is_cancelled_leaves_nothing_on_the_node(run, smart, tmp_path):
    started, gate = threading.Event(), threading.Event()

    def hold(path):
        if path.endswith("git-upload-pack"):
            started.set()
            gate.wait(20)

    smart.before = hold
    process = run.start(url=f"{smart.url}/source/.git")
    assert started.wait(20)
    assert list((tmp_path / "scratch").iterdir())
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    gate.set()
    assert not list((tmp_path / "scratch").iterdir())


def test_the_place_on_the_node_is_there_though_an_earlier_run_made_it_lead_to_where_others_write(run, smart, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "coxswain-source-dead").mkdir(parents=True)
    (tmp_path / "scratch").rmdir()
    (tmp_path / "scratch").symlink_to(elsewhere)
    run(url=f"{smart.url}/source/.git")
    assert not (tmp_path / "scratch").is_symlink()
    assert (elsewhere / "coxswain-source-dead").exists()


def test_what_one_that_was_killed_left_on_the_node_goes_with_the_next_run(run, smart, tmp_path):
    (tmp_path / "scratch" / "coxswain-source-dead").mkdir()
    (tmp_path / "scratch" / "mine").mkdir()
    run(url=f"{smart.url}/source/.git")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["mine"]


def test_what_takes_long_shows_how_far_it_is(run, smart, repository):
    for n in range(150):
        (repository / f"noise-{n}").write_bytes(os.urandom(10_000))
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Noise")
    whole = smart.RequestHandlerClass.answer

    def slowly(self, status, headers, data=b""):
        if len(data) < 1_000_000:
            return whole(self, status, headers, data)
        self.send_response(status)
        self.send_header("Content-Type", headers["Content-Type"])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        pause = threading.Event()
        for at in range(0, len(data), len(data) // 12):
            self.wfile.write(data[at : at + len(data) // 12])
            pause.wait(0.2)
        return None

    smart.RequestHandlerClass = type("Slow", (smart.RequestHandlerClass,), {"answer": slowly})
    _, facts, setup = run(url=f"{smart.url}/source/.git")
    assert facts["commit"]
    lines = [line for line in setup.splitlines() if line.startswith("Receiving objects:")]
    assert 1 <= len(lines) <= 6, setup
    assert "\r" not in setup


# What is kept


def test_mirrors_together_are_no_larger_than_they_may_be(run, smart, tmp_path, repository):
    (repository / "noise").write_bytes(os.urandom(300_000))
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Noise")
    for n in range(4):
        shutil.copytree(repository, tmp_path / f"source-{n}")
        _, facts, _ = run(url=f"{smart.url}/source-{n}/.git", kept_bytes=900_000)
        assert facts["commit"]
    kept = [path for path in (tmp_path / "shared" / ".sources").iterdir() if path.is_dir()]
    assert len(kept) == 2
    assert len(list((tmp_path / "shared" / ".sources").glob("*.lock"))) == 2


def both_ask(server, then=lambda: None):
    """Nobody is told what there is before two have asked for it; and one of the two only after `then()`."""
    both = threading.Barrier(2)

    def before(path):
        if "/info/refs" in path and not both.wait(30):
            then()

    server.handler.before = staticmethod(before)


def test_a_new_repository_is_fetched_while_the_server_is_asked_what_it_has(run, server, repository):
    both_ask(server)
    _, facts, setup = run()
    assert facts["commit"] == git(repository, "rev-parse", "main")
    assert "Cloning" in setup
    assert len([path for path in server.asked if "/info/refs" in path]) == 2


def test_a_server_of_files_may_have_them_packed(run, server, repository):
    git(repository, "gc", "--quiet")
    _, facts, setup = run()
    assert facts.get("commit") == git(repository, "rev-parse", "main"), setup


def test_what_is_pushed_between_the_two_is_not_lost(run, server, repository):
    before = git(repository, "rev-parse", "main")

    def push():
        git(repository, "commit", "--quiet", "--allow-empty", "-m", "Third")
        git(repository, "branch", "another")
        git(repository, "update-server-info")
        server.handler.before = None

    both_ask(server, push)
    _, facts, _ = run()
    after = git(repository, "rev-parse", "main")
    assert facts["commit"] in (before, after)
    _, facts, _ = run(reference="another")
    assert facts["commit"] == after


def test_a_mirror_is_locked_also_where_an_address_led_elsewhere_a_moment_before(run, smart, repository, tmp_path):
    old, free = f"{smart.url}/old", []
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "old")
    run(url=f"{smart.url}/source/.git")
    add_submodule(repository, "lib", old, git(repository, "rev-parse", "v1"))
    smart.moved["/old/"] = f"{smart.url}/source/.git/"

    def before(path):
        if path.startswith("/source/"):
            smart.moved.clear()
        elif path == "/old/git-upload-pack":
            lock = tmp_path / "shared" / ".sources" / f"{hashlib.sha256(old.encode()).hexdigest()[:24]}.lock"
            free.append(subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode == 0)

    smart.before = before
    _, _, setup = run(url=old)
    assert "The submodule lib is at" in setup
    assert free[-1:] == [False]


def test_of_a_repository_that_is_not_there_nothing_is_left(run, server, tmp_path):
    done, facts, _ = run(url=f"{server.url}/nowhere/.git")
    assert done.returncode == 70
    assert "not be cloned" in facts["failure"]["message"]
    assert list((tmp_path / "shared" / ".sources").iterdir()) == []


@pytest.mark.parametrize("reference", ["", "main"])
def test_what_is_known_is_checked_out_while_the_server_is_asked(run, smart, tmp_path, repository, reference):
    url = f"{smart.url}/source/.git"
    run(url=url)
    smart.before = lambda _: until((tmp_path / "run-1" / "src" / ".git" / "index").exists, what="the files")
    smart.asked.clear()
    done, facts, setup = run(url=url, reference=reference)
    assert (done.returncode, facts["commit"]) == (0, git(repository, "rev-parse", "main"))
    assert "Cloning" not in setup
    assert ex(tmp_path / "run-1") == "print('second')\n"
    # And it is not what is run where the server has something else.
    smart.before = lambda _: until((tmp_path / "run-2" / "src" / ".git" / "index").exists, what="the files")
    (repository / "ex.py").unlink()
    (repository / "other.py").write_text("")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "-m", "Third")
    _, facts, _ = run(url=url, reference=reference)
    assert facts["commit"] == git(repository, "rev-parse", "main")
    assert {path.name for path in (tmp_path / "run-2" / "src").iterdir()} == {".git", "other.py"}
    assert git(tmp_path / "run-2" / "src", "status", "--porcelain") == ""


# What other runs of the workspace may have left where mirrors are kept


def of_all_kinds(place):
    """Makes things that are neither a file nor a folder to use."""
    os.mkfifo(place / "a fifo")
    (place / "a folder" / "in it").mkdir(parents=True)
    (place / "a link").symlink_to("/nonexistent/place")
    return list(place.iterdir())


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("where", ["", "NAME", "NAME.lock", "NAME/listing", "NAME/.complete"])
def test_whatever_lies_in_the_place_of_a_mirror_the_next_run_has_its_source(run, smart, tmp_path, where, kind):
    url = f"{smart.url}/source/.git"
    assert run(url)[0].returncode == 0
    store = tmp_path / "shared" / ".sources"
    (name,) = (path.name for path in store.iterdir() if path.is_dir())
    (tmp_path / "things").mkdir()
    thing = of_all_kinds(tmp_path / "things")[kind]
    spoilt = store / where.replace("NAME", name)
    spoilt.rename(tmp_path / "away")
    thing.rename(spoilt)
    if where == "NAME/.complete":
        git(tmp_path / "source", "commit", "--quiet", "--allow-empty", "-m", "More")  # so that it is written anew
    process = run.start(url)
    process.wait(30)
    assert process.returncode == 0, (process.folder / "out").read_text()
    assert ex(process.folder)


@pytest.mark.parametrize("what", ["kept", "kept, and old", "half made"])
def test_a_mirror_that_somebody_made_too_deep_is_in_nobodys_way(run, smart, repository, tmp_path, what):
    url = f"{smart.url}/source/.git"
    run(url)
    store = tmp_path / "shared" / ".sources"
    (mirror,) = (path for path in store.iterdir() if path.is_dir())
    (mirror / "objects" / "aa").mkdir()
    at = os.open(mirror / "objects" / "aa", os.O_RDONLY)
    for _ in range(1200):  # more than Python calls itself
        os.mkdir("d", dir_fd=at)
        above, at = at, os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(above)
    os.close(at)
    if what == "kept, and old":
        git(repository, "commit", "--quiet", "--allow-empty", "-m", "More")
    elif what == "half made":
        (mirror / ".complete").unlink()
    done, facts, setup = run(url)
    subprocess.run(["rm", "-r", str(store)], check=True)  # which is too deep for pytest too
    assert done.returncode == 0, setup
    assert facts["commit"] == git(repository, "rev-parse", "main")


# Whom git trusts

ASK = f"""
import pathlib, sys
sys.path[:0] = {PLACES!r}
import addresses, source
source.AUTHORITIES = sys.argv[1:2]
order = {{"environment": {{"COXSWAIN_RUN": "r"}}, "allow_this_machine": True}}
git, server = source.Git(order, pathlib.Path(sys.argv[2]), print), addresses.Server(sys.argv[3], True)
try:
    print(git("ls-remote", "--", server.url, server=server).decode())
except source.ProgramFailed as failure:
    print(failure)
print("one file" if git.trust else "all of them")
"""


@pytest.mark.parametrize(
    ("trusts", "said"), [("certificate", r"refs/tags/v1\n\none file$"), ("other", r"(?s)certificate.*all of them$")]
)
def test_git_looks_into_one_file_for_whom_to_trust_and_elsewhere_before_it_refuses(tmp_path, repository, trusts, said):
    (tmp_path / "home").mkdir()
    (tmp_path / "other").write_text("")
    plain = {name: value for name, value in os.environ.items() if "SSL" not in name}
    with serving_at("127.0.0.1", tmp_path) as url:
        words = [str(tmp_path / trusts), str(tmp_path / "home"), f"{url}/source/.git"]
        done = subprocess.run(
            [sys.executable, "-ISc", ASK, *words], env=plain, capture_output=True, text=True, check=True
        )
    assert re.search(said, done.stdout.strip())
