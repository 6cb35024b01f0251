"""What signs in to a Git server in git's place: for whom, for what, at whom, and how it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gitserver import git, serving
from tests.machines.house import serving_at
from tests.machines.proxy import Proxy

from .conftest import PLACES

USERNAME, PASSWORD = "me", "t0ken"
CHILD = """
import http.client, json, sys
for verb, path, kind in json.loads(sys.argv[2]):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
    connection.request(verb, path, body=b"0000" if verb == "POST" else None, headers={"Content-Type": kind})
    print(connection.getresponse().status)
"""
# As `source.fetch` does it: what it says, what it found, and what a program that it began gets for its questions.
PROGRAM = f"""
import json, pathlib, subprocess, sys
sys.path[:0] = {PLACES!r}
import addresses, source
from programs import ProgramFailed, SetupFailed
order = json.loads(sys.argv[1])
place = pathlib.Path(order["place"])
source.AUTHORITIES = order.get("authorities", ())
class Setup:
    folder = place
    say = print
    begin = lambda self: None
setup = Setup()
setup.order = order
fetcher = source.Fetcher(setup, place)
fetcher.git.meanwhile = setup.begin
try:
    with fetcher.signed_in(order["git_url"], order["credential"]):
        server = addresses.Server(order["git_url"], True)
        if order["questions"]:
            with fetcher.git.relay.asking(server):
                port = str(fetcher.git.relay.server_address[1])
                words = [sys.executable, "-c", {CHILD!r}, port, json.dumps(order["questions"])]
                print(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        else:
            print("commit", fetcher.bring(order["git_url"], "", place / "src"))
except SetupFailed as failure:
    print(json.dumps(failure.facts))
"""


@pytest.fixture
def forge(tmp_path, repository):
    with serving(tmp_path) as server:
        server.asks_for = (USERNAME, PASSWORD)
        server.repository = f"{server.url}/source/.git"
        yield server


@pytest.fixture
def ask(tmp_path):
    (tmp_path / "place").mkdir()

    def go(url, *questions, env=None, **more):
        order = {
            "git_url": url, "place": str(tmp_path / "place"), "shared": str(tmp_path / "shared"),
            "environment": {"COXSWAIN_RUN": "r"}, "allow_this_machine": True, "questions": questions,
            "credential": {"username": USERNAME, "password": PASSWORD}, **more,
        }  # fmt: skip
        plain = {name: value for name, value in os.environ.items() if "SSL" not in name and "proxy" not in name.lower()}
        done = subprocess.run(
            [sys.executable, "-ISc", PROGRAM, json.dumps(order)], capture_output=True, text=True, timeout=120,
            env=plain | (env or {}),
        )  # fmt: skip
        assert not done.returncode, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done.stdout

    return go


def given(forge):
    return [path for path, authorization in forge.asked if authorization]


def test_a_repository_is_fetched_and_its_address_is_the_true_one(ask, forge, repository):
    said = ask(forge.repository)
    assert git(repository, "rev-parse", "main") in said
    assert {path.rpartition("/.git/")[2] for path in given(forge)} == {"info/refs", "git-upload-pack"}
    said = ask(f"{forge.url}/nothing")
    assert f"unable to access '{forge.url}/nothing/'" in said or f"repository '{forge.url}/nothing/' not found" in said


def test_where_nobody_is_asked_who_one_is_nobody_says_it(ask, forge):
    forge.asks_for = None
    assert "commit" in ask(forge.repository)
    assert not given(forge)


def test_a_server_that_asks_for_something_else_than_a_password_gets_none(ask, forge):
    forge.challenge = "Negotiate"
    said = ask(forge.repository)
    assert "Authentication failed" in said
    assert not given(forge)


def test_a_program_that_git_has_not_begun_gets_no_answer(ask, forge):
    """Although it sees where git asks."""
    got = []

    def before(path):
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
            except OSError:
                continue
            if b"git" in words and (found := re.search(rb"http://127\.0\.0\.1:(\d+)/\0", words)):
                question = json.dumps([["GET", "/info/refs?service=git-upload-pack", ""]])
                done = subprocess.run([sys.executable, "-c", CHILD, found[1], question], capture_output=True, text=True)
                got.append((done.stdout, "RemoteDisconnected" in done.stderr or "ConnectionReset" in done.stderr))

    forge.before = before
    assert "commit" in ask(forge.repository)
    assert set(got) == {("", True)}


QUESTION = "application/x-git-upload-pack-request"


@pytest.mark.parametrize(
    ("verb", "path", "kind", "status"),
    [
        ("GET", "/info/refs?service=git-upload-pack", "", 200),
        ("GET", "/HEAD", "", 200),
        ("GET", "/info/refs?service=git-receive-pack", "", 403),
        ("GET", "/", "", 403),
        ("GET", "/config", "", 403),
        ("GET", "/../../other/info/refs?service=git-upload-pack", "", 403),
        ("GET", "/objects/info/../../../other", "", 403),
        ("GET", "//source/.git/HEAD", "", 403),
        ("GET", "http://127.0.0.1/HEAD", "", 403),
        ("GET", "/api/v4/user", "", 403),
        ("GET", "/info/refs?service=git-upload-pack&x=/../", "", 403),
        ("POST", "/git-receive-pack", "application/x-git-receive-pack-request", 403),
        ("POST", "/git-upload-pack", "application/json", 403),
        ("POST", "/HEAD", QUESTION, 403),
        ("DELETE", "/HEAD", "", 501),
    ],
)
def test_it_is_asked_for_nothing_but_what_a_fetch_of_the_repository_needs(ask, forge, verb, path, kind, status):
    assert ask(forge.repository, (verb, path, kind)).split() == [str(status)]
    assert bool(given(forge)) == (status == 200)


# Servers that fail


def facts(said):
    return json.loads(said.strip().splitlines()[-1])


def test_a_server_that_is_not_there_is_named(ask):
    assert (
        "unable to access 'http://127.0.0.1:9/x/': Connection refused" in facts(ask("http://127.0.0.1:9/x"))["evidence"]
    )


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_any(ask, forge):
    silent = threading.Event()
    forge.before = lambda path: silent.wait(30)
    said = facts(ask(forge.repository, git_silence_seconds=1))
    silent.set()
    assert re.fullmatch(r"Git waited [1-9] s for 127.0.0.1, and was ended.", said["message"]), said


@pytest.mark.parametrize("cuts", ["length", "chunked"])
def test_an_answer_that_is_cut_short_is_no_answer(ask, forge, cuts):
    forge.cuts = cuts
    said = facts(ask(forge.repository))
    assert said["message"] == "The source could not be cloned."


# The way there


def test_by_https_it_signs_in_where_the_certificate_is_good_and_nowhere_else(ask, tmp_path, repository):
    (tmp_path / "other").write_text("")
    with serving_at("127.0.0.1", tmp_path) as url:
        assert "commit" in ask(f"{url}/source/.git", authorities=[str(tmp_path / "certificate")])
        assert "commit" in ask(f"{url}/source/.git", env={"GIT_SSL_CAINFO": str(tmp_path / "certificate")})
        assert "commit" in ask(f"{url}/source/.git", env={"SSL_CERT_FILE": str(tmp_path / "certificate")})
        assert "certificate verify failed" in facts(ask(f"{url}/source/.git"))["evidence"]


@contextmanager
def proxy():
    made = Proxy("127.0.0.1")
    made.count = 0
    verify = made.verify_request

    def counted(*words):
        made.count += 1
        return verify(*words)

    made.verify_request = counted
    yield made
    made.close()


def test_it_goes_through_the_proxy_of_the_house_unless_that_is_not_for_it(ask, tmp_path, repository):
    with serving_at("127.0.0.1", tmp_path) as url, proxy() as way:
        env = {"https_proxy": way.url, "SSL_CERT_FILE": str(tmp_path / "certificate")}
        assert "commit" in ask(f"{url}/source/.git", env=env)
        assert way.count
        way.count = 0
        assert "commit" in ask(f"{url}/source/.git", env=env | {"NO_PROXY": "127.0.0.0/8"})
        assert not way.count
        said = ask(f"{url}/source/.git", env=env | {"https_proxy": "socks5://127.0.0.1:1"})
        assert "Nobody signs in through a proxy of the kind socks5://" in facts(said)["evidence"]
