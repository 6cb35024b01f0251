"""What a computer of a pool says is believed where it makes sense, and ruins nothing where it makes none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from uuid import uuid4

import pytest

from portal import ssh
from portal.clouds.machines import certificates, check, standing
from portal.clouds.machines.models import Computer, Pool

FACTS = {
    "hostname": "n", "python": "3.12.1", "system": "Debian", "kernel": "6.1", "architecture": "x86_64",
    "libc": "glibc 2.36", "missing": [], "user": "team", "uid": 1000, "cores": 2, "vcpus": 4, "memory_gib": 7.7,
    "boot_id": "01234567-89ab-cdef-0123-456789abcdef", "load": 0.5, "others": 0, "people": [],
    "ended_at_logout": False, "temporary": "/tmp", "temporary_free_gib": 10.0,
    "programs": 0, "program_names": [], "other_keys": 0,
}  # fmt: skip
BASE = {
    "kind": "nfs4",
    "executes": True,
    "owner": "team",
    "is_ours": True,
    "is_others": False,
    "free_gib": 99.0,
    "within": "",
}


class Program:
    """Answers as the program of the portal does; `said` changes what it says to some question."""

    def __init__(self, number, said=lambda question, answer: answer):
        self.number, self.said = number, said
        self.out = b""
        self.tokens = set()

    def hear(self, data):
        for line in data.splitlines():
            with contextlib.suppress(ValueError):
                self.answer(json.loads(line))

    def answer(self, ask):
        if "look" in ask:
            facts = {**FACTS, "hostname": f"n{self.number}", "boot_id": f"{self.number:08}{FACTS['boot_id'][8:]}"}
            question, answer = "facts", {"facts": facts, "port": 4000, "base": dict(BASE), "trouble": ""}
        elif "tokens" in ask:
            question, answer = "tokens", {"sees": list(ask["tokens"])}
        elif "write" in ask:
            question, answer = "write", {"trouble": ""}
        elif "peers" in ask:
            question, answer = "peers", {"ways": {}}
        else:
            question, answer = "clock", {"clock": time.time()}
        said = self.said(question, {"clock": time.time(), **answer})
        self.out += said if isinstance(said, bytes) else b"\n@coxswain " + json.dumps(said).encode() + b"\n"

    async def read(self, most):
        data, self.out = self.out[:most], self.out[most:]
        await asyncio.sleep(0)
        return data

    async def write(self, data):
        self.hear(data)

    async def status(self):
        return 0


@pytest.fixture
def checked(db, monkeypatch):
    """What is found of two computers that are all right, and of others that say something else."""
    pool = Pool.objects.create(account=uuid4(), name="desks", user="team", base="/shared/coxswain")
    certificates.new_authority(pool)
    pool.save()
    computers = {}

    @contextlib.asynccontextmanager
    async def terminal(self, host, command):
        computers[host.address].hear(command.first[len(check._PROGRAM) :])
        yield computers[host.address]

    monkeypatch.setattr(ssh.Connections, "terminal", terminal)
    monkeypatch.setattr(check, "ROUND_SECONDS", 0)

    def go(*lies):
        for number, lie in enumerate((None, None, *lies), 1):
            pool.computers.create(address=f"10.0.0.{number}", host_public=ssh.new_key("")[1])
            computers[f"10.0.0.{number}"] = Program(number, *([lie] if lie else []))
        findings = asyncio.run(check.check(pool, list(pool.computers.order_by("pk"))))
        standing.write_down(pool, findings, {})
        return list(pool.computers.order_by("pk"))

    return go


def facts(**others):
    def said(question, answer):
        return {**answer, "facts": answer["facts"] | others} if question == "facts" else answer

    return said


def at(where, answer):
    return lambda question, usual: answer if question == where else usual


def without(name):
    def said(question, answer):
        answer.get("facts", {}).pop(name, None)
        return answer

    return said


LIES = {
    "a name with a line of ssh_config": facts(hostname="n3\n  ProxyCommand touch /tmp/x"),
    "a name that leads out of its folder": facts(hostname="../../n3"),
    "a name for all hosts": facts(hostname="*"),
    "a name of the length of a book": facts(hostname="n" * 1000),
    "no name": facts(hostname=""),
    "a number for a name": facts(hostname=3),
    "fewer cores than none": facts(cores=-4),
    "cores in words": facts(cores="many"),
    "more cores than a column holds": facts(vcpus=10**30),
    "an architecture of the length of a book": facts(architecture="x" * 5000),
    "memory that is no number": facts(memory_gib=float("nan")),
    "a load beyond all": facts(load=float("inf")),
    "a boot id of the length of a book": facts(boot_id="0" * 5000),
    "programs that nobody has asked for": facts(missing=["emacs"]),
    "people who are no names": facts(people=[{}]),
    "no facts": at("facts", {"nothing": 1}),
    "facts that are a list": at("facts", []),
    "a fact less": without("uid"),
    "a folder that is a number": lambda question, answer: answer | ({"base": 7} if question == "facts" else {}),
    "a port that is none": lambda question, answer: answer | ({"port": "x"} if question == "facts" else {}),
    "depth": at("facts", b"@coxswain " + b"[" * 200_000 + b"\n"),
    "a clock that is none": at("clock", {"clock": "noon"}),
    "no clock": at("clock", {}),
    "tokens that are none": at("tokens", {"sees": [[]]}),
    "ways that are none": at("peers", {"ways": 3}),
    "a way of another kind": at("peers", {"ways": {"someone": ["by boat", "wet"]}}),
    "a way of no kind at all": at("peers", {"ways": {"someone": [[], "wet"]}}),
    "a list in the place of ways": at("peers", []),
}


def test_computers_that_say_what_makes_no_sense_are_refused_and_the_others_are_not(checked):
    one, two, *liars = checked(*LIES.values())
    assert [one.state, two.state] == [Computer.State.READY] * 2
    believed = [lie for lie, liar in zip(LIES, liars, strict=True) if liar.state != Computer.State.REFUSED]
    assert believed == []
    for liar in liars:
        assert re.fullmatch(r"(n[0-9]+)?", liar.hostname)
        assert all(len(failing["message"]) < 400 for failing in liar.failing)


def test_a_computer_that_talks_without_end_is_refused_soon(checked):
    began = time.process_time()
    one, two, three = checked(at("facts", b"\n" * 8_000_000))
    assert time.process_time() - began < 5
    assert [one.state, two.state, three.state] == ["ready", "ready", "refused"]


def test_what_root_is_to_type_is_not_the_computers_to_say(checked):
    *_, three = checked(facts(user="team; reboot", ended_at_logout=True))
    assert all("reboot" not in failing["advice"] for failing in three.failing)


def test_an_account_of_a_directory_has_a_large_uid(checked):
    *_, three = checked(facts(uid=1_968_400_513))
    assert [failing["name"] for failing in three.failing] == ["Account"]
    assert three.facts["uid"] == 1_968_400_513


def test_whatever_may_be_missing_is_told_with_its_package(checked):
    *_, three = checked(facts(missing=["git", "flock", "ssh", "venv"]))
    (failing,) = three.failing
    assert (failing["name"], failing["message"]) == ("Programs", "git, flock, ssh and venv are missing.")
    assert failing["advice"] == "Install these packages: git, util-linux, openssh-client and python3-venv."
