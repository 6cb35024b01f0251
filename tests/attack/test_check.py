"""The button Check has the portal fetch what anybody has put anywhere, and some of it is made to hurt."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from accounts.models import User
from jobs import looking
from jobs.looking import TOO_MUCH
from tests.gitserver import git, serving
from tests.running import ROOT, until
from workspaces.models import CloudConfig


@pytest.fixture(autouse=True)
def isolated(settings, tmp_path):
    """Nodes of This computer that reach no private network."""
    settings.VAR = tmp_path / "var"
    settings.GIT_FROM_THIS_MACHINE = True
    settings.LOCAL_NODES = {**settings.LOCAL_NODES, "neighbours": False}


def look(url, reference="", command="ex.py", config="local", by=1):
    return looking.look(CloudConfig(kind=config), url, reference, command, None, by=User(pk=by))


@pytest.fixture
def smart(tmp_path):
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "ex.py").write_text("1")
    git(folder, "add", ".")
    return folder


@contextlib.contextmanager
def answering(write):
    """A server whose every answer is what `write` makes of its stream."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                write(self.wfile)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a"
    server.shutdown()
    server.server_close()


def running(words):
    """Command lines of processes in which these are."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if words in line]


def test_a_tree_of_ten_thousand_million_files_is_only_asked_for_one(smart, repository, settings):
    def tree(entries):
        words = ["git", "-C", repository, "mktree"]
        return subprocess.run(words, input=entries, capture_output=True, text=True, check=True).stdout.strip()

    here = tree(f"100644 blob {git(repository, 'hash-object', '-w', 'ex.py')}\tex.py")
    for _ in range(10):
        here = tree("\n".join(f"040000 tree {here}\td{n}" for n in range(10)))
    git(repository, "update-ref", "refs/heads/main", git(repository, "commit-tree", "-m", "A bomb", here))
    began = time.monotonic()
    found = look(f"{smart.url}/source/.git", command=f"{'d1/' * 10}ex.py")
    assert "“A bomb”. It has d1/d1/" in found.message
    assert time.monotonic() - began < 10
    assert not list((settings.VAR / "looking").iterdir())


def test_what_is_larger_than_there_is_room_for_is_ended(repository, monkeypatch, tmp_path):
    (repository / "data").write_bytes(os.urandom(24 << 20))
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Large")
    git(repository, "update-server-info")  # a web server gives out all or nothing
    monkeypatch.setattr(looking, "MOST_BYTES", 4 << 20)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words):
            super().__init__(*words, directory=str(tmp_path))

        def copyfile(self, source, to):
            while block := source.read(1 << 20):
                to.write(block)
                time.sleep(0.1)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        assert look(f"http://127.0.0.1:{server.server_port}/source/.git") == TOO_MUCH
    finally:
        server.shutdown()
        server.server_close()


def test_a_list_of_references_without_an_end_takes_no_memory_without_an_end(smart):
    def write(stream):
        some = b"".join(b"%040x\trefs/heads/b%d\n" % (n, n) for n in range(200_000))
        while True:
            stream.write(some)

    with answering(write) as url:
        found = look(url)
    assert not found.good
    assert not running(url)


def test_a_server_that_says_a_byte_now_and_then_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(looking, "SECONDS", 2)

    def write(stream):
        while True:
            stream.write(b"0")
            stream.flush()
            time.sleep(0.2)

    with answering(write) as url:
        began = time.monotonic()
        found = look(url)
        assert not found.good
        assert time.monotonic() - began < 8
        assert not running(url)


def test_a_program_that_does_not_end_is_ended_with_all_that_it_began(monkeypatch, tmp_path):
    monkeypatch.setattr(looking, "SECONDS", -4)
    program = tmp_path / "program.py"
    program.write_text(f"import subprocess\nsubprocess.run(['sleep', '4{tmp_path.stat().st_ino}'])\n")
    monkeypatch.setattr(looking, "_PROGRAM", program)
    assert look("https://git.test/a") == TOO_MUCH
    until(lambda: not running(f"sleep 4{tmp_path.stat().st_ino}"), what="its end")


def test_no_secret_of_the_portal_is_where_a_repository_is_read(monkeypatch, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os\nprint(json.dumps({'message': ' '.join(os.environ), 'evidence': '', 'advice': ''}))\n"
    )
    monkeypatch.setattr(looking, "_PROGRAM", program)
    monkeypatch.setenv("PORTAL_SECRET_KEY", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    assert set(look("https://git.test/a").message.split()) <= {*looking._KEPT, "LC_CTYPE"}


def test_ssh_is_not_begun_for_it_has_the_keys_of_whoever_runs_the_portal():
    assert look("ssh://git@127.0.0.1:1/a").message == "Addresses that begin with ssh:// are not looked at from here."


def test_a_server_leads_to_no_private_network(smart):
    smart.moved["/a"] = "https://10.0.0.1/a"
    assert "10.0.0.1 is on a private network" in look(f"{smart.url}/a").message


def test_one_person_has_one_looked_at_at_a_time(smart, repository):
    git(repository, "commit", "--quiet", "-m", "One")
    said = []

    def before(path):
        if path.startswith("/source") and not said:
            said.append(look(f"{smart.url}/b").message)
            said.append(look(f"{smart.url}/b", by=2).message)

    smart.before = before
    assert look(f"{smart.url}/source/.git").good
    assert said == ["The portal looks at a repository for you just now.", "The repository cannot be read."]
    assert look(f"{smart.url}/source/.git").good


def test_no_words_of_a_repository_turn_the_page_around(smart, repository):
    git(repository, "commit", "--quiet", "-m", "\x1b[31mred\u202eback\x07")
    found = look(f"{smart.url}/source/.git")
    assert "“redback”" in found.message


def test_files_behind_links_and_in_submodules_are_said_to_be_unknown(smart, repository, tmp_path):
    (repository / "inside").mkdir()
    (repository / "inside" / "a.py").write_text("1")
    (repository / "link").symlink_to("inside")
    git(repository, "add", ".")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    git(repository, "commit", "--quiet", "-m", "Links")
    url = f"{smart.url}/source/.git"
    assert "It has inside/a.py." in look(url, command="inside/a.py").message
    for file in ("link/a.py", "sub/b.py"):
        found = look(url, command=file)
        assert found.good
        assert f"Whether it has {file} is not known" in found.advice
    for file in ("inside/", "ex.py/b.py", "../source/ex.py", ":(glob)**"):
        assert look(url, command=f"'{file}'").message.startswith("The repository has no file"), file


def test_only_addresses_that_lead_anywhere_are_asked():
    code = f"""
import json, socket, sys
sys.path[:0] = [{str(ROOT / "jobs" / "onnode")!r}, {str(ROOT / "portal" / "onnode")!r}]
import look
def told(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    socket.getaddrinfo = lambda *_, **__: [(family, 1, 6, "", (address, 443))]
    try:
        return look.Public("https://git.test/a", False).options[-1]
    except look.SetupFailed as failure:
        return str(failure)
look.Public.portals = {{"93.184.216.35"}}
print(json.dumps([told(address) for address in json.load(sys.stdin)]))
"""
    good = ["93.184.216.34", "2606:4700::1111"]
    private = [
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "240.0.0.1", "0.0.0.0", "127.0.0.1"),
        *("169.254.169.254", "224.0.0.1", "::1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::", "::127.0.0.1"),
        *("::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::a00:1", "2002:a00:1::", "2001:0:1::1", "fd00:ec2::254"),
    ]
    asked = json.dumps([*good, *private, "93.184.216.35"])
    done = subprocess.run([sys.executable, "-I", "-c", code], input=asked, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert [words.partition(":443:")[2] for words in said[:2]] == ["93.184.216.34", "[2606:4700::1111]"]
    for address, words in zip(private, said[2:-1], strict=True):
        assert "private network" in words or "no Git server may be" in words, address
    assert "where this portal is" in said[-1]
