"""The packages of a run: what this commit asks for, kept by everything that decides it, and cleaned up."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.gitserver import git
from tests.jobs.conftest import said_in
from tests.running import until

pytestmark = pytest.mark.slow

UV = Path(sys.executable).with_name("uv")
# A project that is built without a package index: it is its own builder.
BUILDER = """
import os, zipfile
def _wheel(folder):
    name = "mysim-0.1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.write("mysim.py")
        wheel.writestr("mysim-0.1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mysim\\nVersion: 0.1\\n")
        wheel.writestr("mysim-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("mysim-0.1.dist-info/RECORD", "")
    return name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    return _wheel(folder)
def build_editable(folder, config_settings=None, metadata_directory=None):
    return _wheel(folder)
"""
PROJECT = """[build-system]
requires = []
build-backend = "builder"
backend-path = ["."]
[project]
name = "mysim"
version = "0.1"
"""


def wheel(folder, name, version, requires=()):
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {other}\n" for other in requires)
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        made.writestr(f"{about}/METADATA", metadata)
        made.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{about}/RECORD", "")
    return file


@pytest.fixture
def index(tmp_path, server):
    """A package index with some packages, and the variables by which uv and pip use it alone."""
    for name, versions in {"red": ("1.0", "2.0"), "blue": ("1.0", "2.0"), "green": ("1.0",)}.items():
        for version in versions:
            wheel(tmp_path / "simple" / name, name, version, ["red"] if name == "green" else ())
    return {
        "PATH": f"{tmp_path / 'tools'}:/usr/local/bin:/usr/bin:/bin", "PIP_CONFIG_FILE": os.devnull,
        "UV_DEFAULT_INDEX": f"{server.url}/simple", "PIP_INDEX_URL": f"{server.url}/simple", "PIP_FIND_LINKS": "",
        "PIP_CACHE_DIR": str(tmp_path / "pip-cache"), "UV_CACHE_DIR": str(tmp_path / "uv-cache"), "UV_NO_CONFIG": "1",
    }  # fmt: skip


@pytest.fixture(params=["uv", "pip"])
def installer(request, tmp_path):
    (tmp_path / "tools").mkdir()
    if request.param == "uv":
        (tmp_path / "tools" / "uv").symlink_to(UV)
    return request.param


@pytest.fixture
def uv(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "uv").symlink_to(UV)


@pytest.fixture
def commit(repository):
    def commit(files):
        for name, text in files.items():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        git(repository, "add", "--all", ".")
        git(repository, "commit", "--quiet", "-m", "Packages")
        git(repository, "update-server-info")

    return commit


@pytest.fixture
def have(run, index):
    """Runs, and returns {package: version} that the program has; `have.last`: what was said."""

    def have(env=None, **order):
        done, facts, have.last = run(env={**index, **(env or {})}, **order)
        have.facts = facts
        assert done.returncode == 0, have.last
        found = re.search(r"^PYTHONPATH=(.*)$", done.stdout, re.MULTILINE)
        have.folder = found and Path(found.group(1))
        return versions(have.folder) if found else None

    return have


def versions(folder):
    names = (path.name.removesuffix(".dist-info").split("-") for path in folder.glob("*.dist-info"))
    return dict(names)


def kept(tmp_path):
    return {path.name for path in (tmp_path / "shared" / ".packages").iterdir() if path.is_dir()}


def test_they_are_installed_and_the_next_run_has_them_at_once(have, commit, installer):
    commit({"requirements.txt": "red==1.0\ngreen\n"})
    assert have() == {"red": "1.0", "green": "1.0"}
    assert "Installing the packages" in have.last
    assert have() == {"red": "1.0", "green": "1.0"}
    assert "Installing" not in have.last


def test_what_the_engine_has_is_taken_in_the_same_version_where_that_can_be(have, commit, tmp_path, installer):
    (tmp_path / "engine/lib/python3.11/site-packages/red-1.0.dist-info").mkdir(parents=True)
    commit({"requirements.txt": "green\n"})  # which wants some red
    assert have() == {"green": "1.0", "red": "1.0"}
    assert "other versions" not in have.last
    commit({"requirements.txt": "green\nred==2.0\n"})
    assert have() == {"green": "1.0", "red": "2.0"}
    assert "other versions than the engine has them" in have.last


@pytest.mark.parametrize("text", [None, "", "\n# nothing\n  # at all \\\n", b"\xef\xbb\xbf# nothing\n"])
def test_without_any_nothing_is_installed(have, commit, text, uv):
    commit({"other.txt": "", **({} if text is None else {"requirements.txt": text})})
    assert have() is None
    assert "packages" not in have.last


@pytest.mark.parametrize(
    "line", ["-r reqs/base.txt", "-rreqs/base.txt", "--requirement reqs/base.txt", "--requirement=reqs/base.txt",
             "red\n-c reqs/base.txt", "red\n--constraint reqs/base.txt"],
)  # fmt: skip
def test_a_file_that_another_one_names_decides_too(have, commit, line, uv):
    commit({"requirements.txt": f"{line}\n", "reqs/base.txt": "red==1.0\n"})
    assert have() == {"red": "1.0"}
    commit({"reqs/base.txt": "red==2.0\n"})
    assert have() == {"red": "2.0"}


def test_so_does_one_that_that_one_names_from_its_own_folder(have, commit, installer):
    files = {
        "requirements.txt": "-r a/one.txt\n",
        "a/one.txt": "-r b/two.txt\nblue==1.0\n",
        "a/b/two.txt": "-c ../c.txt\nred",
    }
    commit({**files, "a/c.txt": "red==1.0"})
    assert have() == {"red": "1.0", "blue": "1.0"}
    commit({"a/c.txt": "red==2.0"})
    assert have() == {"red": "2.0", "blue": "1.0"}


def test_a_file_that_is_a_link_is_read_from_where_the_link_is(have, commit, repository, uv):
    (repository / "requirements.txt").symlink_to("reqs/base.txt")
    commit({"reqs/base.txt": "-r more.txt\n", "more.txt": "red==1.0", "reqs/more.txt": "blue==1.0"})
    assert have() == {"red": "1.0"}
    commit({"more.txt": "red==2.0"})
    assert have() == {"red": "2.0"}


def test_the_order_of_commits_does_not_matter(have, commit, repository, tmp_path, uv):
    commit({"requirements.txt": "-r base.txt", "base.txt": "red==1.0"})
    first = git(repository, "rev-parse", "HEAD")
    commit({"base.txt": "red==2.0"})
    assert [have(), have(reference=first), have()] == [{"red": "2.0"}, {"red": "1.0"}, {"red": "2.0"}]
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize(
    "text",
    [b"\xef\xbb\xbfred==1.0\n", "red==1.0\n".encode("utf-16"), b"red \\\r\n  ==1.0\r\n", b"red==1.0 # caf\xc3\xa9\n",
     b"# -*- coding: latin-1 -*-\nred==1.0 # caf\xe9\n", b"red==1.0"],
)  # fmt: skip
def test_files_as_editors_of_all_kinds_save_them(have, commit, text, uv):
    commit({"requirements.txt": "-r nested.txt\n", "nested.txt": text})
    assert have() == {"red": "1.0"}
    assert "error" not in have.last.lower()
    commit({"nested.txt": text.replace(b"=1", b"=2").replace(b"=\x001", b"=\x002")})
    assert have() == {"red": "2.0"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"requirements.txt": "-r no/such.txt"}, "requirements.txt names no/such.txt, which is not there."),
        ({"requirements.txt": "-r a.txt", "a.txt": "-c b.txt"}, "a.txt names b.txt, which is not there."),
        ({"requirements.txt": "-r a.txt", "a.txt": "-r b.txt", "b.txt": "-r a.txt"},
         "a.txt names itself, by way of b.txt."),
        ({"requirements.txt": "-r requirements.txt"}, "requirements.txt names itself, by way of requirements.txt."),
        ({"requirements.txt": b"\xff\xfer"}, "requirements.txt is not text in utf-16."),
        ({"requirements.txt": b"# coding: nonsense\nred"}, "requirements.txt is not text in nonsense."),
        ({"requirements.txt": "-r 'open"}, "requirements.txt has a line that cannot be read: -r 'open"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(run, commit, index, files, message, uv):
    commit(files)
    done, facts, _ = run(env=index)
    assert done.returncode == 70
    assert facts["failure"]["message"] == message


@pytest.mark.parametrize("line", [".", "-e .", "--editable=.", "./", "-e ./", "--no-index\n."])
def test_the_source_itself_is_installed_from_this_commit(have, commit, tmp_path, line, uv):
    commit(
        {"requirements.txt": f"{line}\n", "pyproject.toml": PROJECT, "builder.py": BUILDER, "mysim.py": "ANSWER = 1"}
    )
    assert have() == {"mysim": "0.1"}
    assert (have.folder / "mysim.py").read_text() == "ANSWER = 1"
    have()
    assert "Installing" not in have.last
    commit({"mysim.py": "ANSWER = 2"})
    have()
    assert (have.folder / "mysim.py").read_text() == "ANSWER = 2"


def test_a_folder_of_the_source_too_and_beside_it_what_else_is_wanted(have, commit, installer):
    files = {"pyproject.toml": PROJECT, "builder.py": BUILDER, "mysim.py": "ANSWER = 1"}
    commit({"requirements.txt": "-r sub/more.txt\n-e ./sub\n", "sub/more.txt": "red==1.0 # old\n-c ../c.txt\nblue\n",
            "c.txt": "blue==1.0\n", **{f"sub/{name}": text for name, text in files.items()}})  # fmt: skip
    assert have() == {"mysim": "0.1", "red": "1.0", "blue": "1.0"}


@pytest.mark.parametrize("line", ["./wheels/own-1.0-py3-none-any.whl", "--find-links wheels\nown", "-f ./wheels\nown"])
def test_wheels_of_the_repository_are_those_of_this_commit(have, commit, tmp_path, line, uv):
    file = wheel(tmp_path / "made", "own", "1.0")
    commit({"requirements.txt": line, "wheels/own-1.0-py3-none-any.whl": file.read_bytes()})
    assert have() == {"own": "1.0"}
    first = have.folder
    commit({"other": "file"})
    assert have() == {"own": "1.0"}
    assert have.folder != first


def test_the_index_and_other_settings_decide_too(have, commit, tmp_path, server, uv):
    commit({"requirements.txt": "red"})
    assert have() == {"red": "2.0"}
    wheel(tmp_path / "elsewhere" / "red", "red", "3.0")
    assert have({"UV_DEFAULT_INDEX": f"{server.url}/elsewhere"}) == {"red": "3.0"}
    commit({"requirements.txt": f"--index-url {server.url}/elsewhere\nred"})
    none = {"UV_DEFAULT_INDEX": None}
    assert have(none) == {"red": "3.0"}
    commit({"requirements.txt": "--index-url ${WHERE}\nred"})
    assert have({**none, "WHERE": f"{server.url}/elsewhere"}) == {"red": "3.0"}
    assert have({**none, "WHERE": f"{server.url}/simple"}) == {"red": "2.0"}


def test_another_python_in_the_same_place_has_its_own(have, commit, tmp_path, uv):
    commit({"requirements.txt": "red"})
    have()
    first = have.folder
    (tmp_path / "engine" / "pyvenv.cfg").write_text("version = 3.99\n")
    have()
    assert "Installing" in have.last
    assert have.folder != first


@pytest.mark.parametrize("line", ["red @ {url}", "{url}", "own @ git+{url}@main", "-r {url}/requirements.txt"])
def test_what_may_be_something_else_tomorrow_is_not_kept(run, commit, index, tmp_path, server, line, uv):
    commit({"requirements.txt": line.format(url=f"{server.url}/simple/red/red-1.0-py3-none-any.whl")})
    _, _, setup = run(env=index)
    assert not (tmp_path / "shared" / ".packages").exists()
    if "git+" not in line and "-r" not in line:
        assert "They are not kept for the next run" in setup
        assert versions(tmp_path / "run-0" / "packages") == {"red": "1.0"}


def test_with_its_checksum_it_is_kept(have, commit, index, server, tmp_path, uv):
    file = tmp_path / "simple" / "red" / "red-1.0-py3-none-any.whl"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    commit({"requirements.txt": f"red @ {server.url}/simple/red/{file.name}#sha256={digest}"})
    assert have() == {"red": "1.0"}
    have()
    assert "Installing" not in have.last


# As it goes


def test_what_was_installed_is_shown_line_by_line(have, commit, installer):
    commit({"requirements.txt": "red==1.0\nblue==2.0"})
    have()
    lines = have.last.splitlines()
    if installer == "uv":
        assert "+ blue==2.0" in lines
    assert [line for line in lines if "red" in line]


def test_it_is_shown_while_it_goes_on(run, commit, index, tmp_path):
    """With a stand-in for uv, which says something and waits."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "uv").write_text(
        f"#!/bin/sh\necho 'Resolved 1 package'\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.05; done\n"
    )
    (tmp_path / "tools" / "uv").chmod(0o755)
    commit({"requirements.txt": "red"})
    process = run.start(env=index)
    try:
        until(lambda: "Resolved 1 package" in said_in(process.folder), what="what it said")
    finally:
        (tmp_path / "go").touch()
    assert process.wait(20) == 0


def test_what_uv_cannot_and_pip_can_is_no_failure(have, commit, tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "uv").write_text("#!/bin/sh\necho 'error: I cannot' >&2\nexit 2\n")
    (tmp_path / "tools" / "uv").chmod(0o755)
    commit({"requirements.txt": "red==1.0"})
    assert have() == {"red": "1.0"}
    assert "error" not in have.last
    assert "failure" not in have.facts


def test_what_neither_can_is_said_with_what_they_say(run, commit, index, tmp_path, installer):
    commit({"requirements.txt": "red==9.9"})
    done, facts, _ = run(env=index)
    assert done.returncode == 70
    assert facts["failure"]["message"] == "The packages of requirements.txt could not be installed."
    assert "red==9.9" in facts["failure"]["evidence"]
    assert not kept(tmp_path)


def test_what_a_notebook_needs_is_installed_where_neither_source_nor_engine_has_it(have, commit, tmp_path, installer):
    needs = ["red==1.0", "blue==1.0"]
    commit({"other.txt": ""})
    assert have(needs=needs) == {"red": "1.0", "blue": "1.0"}
    assert "Installing what notebooks need (red==1.0, blue==1.0)" in have.last
    commit({"requirements.txt": "Red==2.0  # ours\ngreen\n"})
    assert have(needs=needs) == {"red": "2.0", "green": "1.0", "blue": "1.0"}
    assert "Installing the packages of requirements.txt and what notebooks need (blue==1.0)" in have.last
    (tmp_path / "engine" / "lib" / "python3.11" / "site-packages" / "blue").mkdir(parents=True)
    assert have(needs=needs) == {"red": "2.0", "green": "1.0"}


def test_where_it_cannot_be_had_that_is_said(run, commit, index, uv):
    commit({"other.txt": ""})
    done, facts, _ = run(env=index, needs=["red==9.9"])
    assert done.returncode == 70
    assert facts["failure"]["message"] == "What notebooks need (red==9.9) could not be installed."
    assert facts["failure"]["advice"].startswith("Have the head node reach its package index")


def test_an_index_that_never_answers_is_named(run, commit, index, tmp_path, installer):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        commit({"requirements.txt": f"--index-url http://127.0.0.1:{deaf.getsockname()[1]}/simple\nred"})
        done, facts, _ = run(env={**index, "UV_DEFAULT_INDEX": None}, packages_seconds=2)
    assert done.returncode == 70
    assert facts["failure"]["message"] == "The packages of requirements.txt were waited for 2 s, from 127.0.0.1."
    assert not kept(tmp_path)


def test_an_install_that_hangs_is_ended_with_what_it_started(run, commit, index, tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "uv").write_text("#!/bin/sh\nsleep 61 & sleep 62\n")
    (tmp_path / "tools" / "uv").chmod(0o755)
    commit({"requirements.txt": "red"})
    process = run.start(env=index, packages_seconds=1)
    assert process.wait(20) == 70
    alive = ["pgrep", "--pgroup", str(process.pid), "--runstates", "R,S,D"]
    assert not subprocess.run(alive, capture_output=True, text=True, check=False).stdout


# What is kept


def test_only_so_many_are_kept_and_the_last_ones_used(have, commit, repository, tmp_path, uv):
    commits = []
    for version in ("red==1.0", "red==2.0", "blue==1.0", "blue==2.0"):
        commit({"requirements.txt": version})
        commits.append(git(repository, "rev-parse", "HEAD"))
        have(kept_most=2)
        have(reference=commits[0], kept_most=2)  # used all the time
    assert len(kept(tmp_path)) == 2
    have(reference=commits[0])
    assert "Installing" not in have.last
    have(reference=commits[1])
    assert "Installing" in have.last


def test_they_are_no_larger_than_they_may_be(have, commit, tmp_path, uv):
    for version in ("red==1.0", "red==2.0", "blue==1.0"):
        commit({"requirements.txt": version})
        have(kept_bytes=1)
    assert kept(tmp_path) == {have.folder.name}, "the one that was made just now is in use"


def test_what_a_run_uses_is_not_thrown_away(run, have, commit, index, tmp_path, uv):
    """Of another cluster, as long as its program runs."""
    engine = tmp_path / "engine" / "bin" / "launcher"
    whole = engine.read_text()
    commit({"requirements.txt": "red==1.0"})
    engine.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.05; done\n")
    process = run.start(env=index)
    until(lambda: (tmp_path / "started").exists(), what="the run")
    engine.write_text(whole)
    (used,) = kept(tmp_path)
    commit({"requirements.txt": "red==2.0"})
    have(kept_most=1)
    assert used in kept(tmp_path)
    (tmp_path / "go").touch()
    assert process.wait(20) == 0
    commit({"requirements.txt": "blue==2.0"})
    have(kept_most=1)
    assert kept(tmp_path) == {have.folder.name}


def test_drafts_of_those_who_were_killed_are_removed(run, have, commit, index, tmp_path):
    (tmp_path / "tools").mkdir()
    uv = tmp_path / "tools" / "uv"
    uv.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nsleep 60\n")
    uv.chmod(0o755)
    commit({"requirements.txt": "red==1.0"})
    process = run.start(env=index)
    until(lambda: (tmp_path / "started").exists(), what="the install")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(kept(tmp_path)) == 1
    uv.unlink()
    uv.symlink_to(UV)
    commit({"requirements.txt": "blue==1.0"})
    assert have() == {"blue": "1.0"}
    assert kept(tmp_path) == {have.folder.name}


def test_runs_at_once_install_the_same_packages_once(run, commit, index, tmp_path, uv):
    commit({"requirements.txt": "red==1.0"})
    runs = [run.start(env=index) for _ in range(3)]
    assert [one.wait(60) for one in runs] == [0] * 3
    said = [said_in(one.folder) for one in runs]
    assert sum("Installing" in setup for setup in said) == 1
    assert len(kept(tmp_path)) == 1
