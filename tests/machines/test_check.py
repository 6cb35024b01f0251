"""What computers of a pool must be, looked at on real ones."""

from __future__ import annotations

import asyncio
import shutil
import time
from uuid import uuid4

import pytest

from portal.clouds.machines import certificates, check
from portal.clouds.machines.models import Computer, Pool
from tests.machines.computers import HOME, SHARED, USER, Computers

pytestmark = pytest.mark.django_db
MOST_SECONDS = 10.0  # for a check of 30 computers


def make_pool(computers, *, state=Computer.State.NEW):
    """Whose host keys somebody has confirmed, and whose line was pasted."""
    pool = Pool(account=uuid4(), name="desks", user=USER, base=f"{SHARED}/coxswain")
    certificates.new_authority(pool)
    pool.save()
    for one in computers:
        pool.computers.create(address=one.address, port=one.port, host_public=one.host_public, state=state)
    computers.paste(pool.authorized_key)
    return pool


@pytest.fixture
def pool(computers):
    return make_pool(computers)


def findings_of(pool):
    return asyncio.run(check.check(pool, list(pool.computers.order_by("pk"))))


def wrong(finding):
    """What it failed: the sentences by the names of what was looked at."""
    return {line.name: line.message for line in finding.lines if line.ok is False}


def left_in(computers):
    return sorted(str(path.relative_to(computers.shared)) for path in computers.shared.rglob("*"))


def test_computers_that_are_alike_and_share_a_folder_pass_and_keep_nothing_of_it(pool, computers):
    findings = findings_of(pool)
    for finding, one in zip(findings, computers, strict=True):
        assert (finding.silence, wrong(finding)) == ("", {})
        assert (finding.facts["hostname"], finding.facts["user"]) == (one.name, USER)
        assert finding.facts["cores"] >= 1
        assert finding.facts["boot_id"] == one.run("cat /proc/sys/kernel/random/boot_id").out.strip()
        assert one.run("ls -A ~ /tmp").out.split() == ["/home/team:", ".ssh", "/tmp:"]
        assert one.run("ls -A ~/.ssh").out.split() == ["authorized_keys"]
        assert f"check of pool {pool.uuid}" in one.log
    assert left_in(computers) == ["coxswain"]
    assert (computers.shared / "coxswain").stat().st_mode & 0o777 == 0o700


def test_each_failing_thing_is_a_sentence_with_what_to_do(pool, computers):
    _, second, third = computers
    environments = second.run("python3 -ISc 'import ensurepip; print(*ensurepip.__path__)'").out.strip()
    second.run(f"mv /usr/bin/git /usr/bin/not-git; mv {environments} {environments}-not", user="root")
    third.unshare_path()
    one, two, three = findings_of(pool)
    assert wrong(one) == {}
    assert wrong(two) == {"Programs": "git and venv are missing."}
    advice = "Install these packages: git and python3-venv."
    assert next(line.advice for line in two.lines if line.name == "Programs") == advice
    assert wrong(three) == {"Shared folder": f"{SHARED}/coxswain is not the same folder as on desk1."}
    second.run(f"mv /usr/bin/not-git /usr/bin/git; mv {environments}-not {environments}", user="root")
    third.share_path()
    assert [wrong(finding) for finding in findings_of(pool)] == [{}, {}, {}]


def test_in_doubt_the_pool_is_where_computers_were_ready_before(pool, computers):
    _, second, third = computers
    pool.computers.filter(address=third.address).update(state=Computer.State.READY)
    pool.computers.filter(address=second.address).delete()
    third.unshare_path()
    one, three = findings_of(pool)
    third.share_path()
    assert wrong(one) == {"Shared folder": f"{SHARED}/coxswain is not the same folder as on desk3."}
    assert wrong(three) == {}


@pytest.fixture
def hosts(computers):
    """Writes /etc/hosts of the second computer, which is as it was afterwards."""
    file = computers.computer[1].path("/etc/hosts")
    before = file.read_text()
    yield lambda change: file.write_text(change(before))
    file.write_text(before)


def test_a_name_that_is_not_known_is_told(pool, hosts):
    hosts(lambda text: "127.0.0.1 localhost\n")
    one, two, three = findings_of(pool)
    assert (wrong(one), wrong(three)) == ({}, {})
    assert wrong(two)["Names"].startswith("It does not find desk3 and desk1 by name.")


def test_a_name_that_leads_elsewhere_is_told_with_where_to(pool, computers, hosts):
    first, _, third = computers
    hosts(lambda text: text.replace(f"{third.address} desk3", f"{first.address} desk3"))
    one, two, three = findings_of(pool)
    assert wrong(one) == {}
    assert first.address in (wrong(two) | wrong(three))["Ports"]  # nobody can say which of the two is right


def test_one_that_does_not_let_the_portal_in_or_shows_another_key_is_told_apart_from_one_that_is_away(pool, computers):
    first, second, third = computers
    keys = first.path(f"{HOME}/.ssh/authorized_keys")
    pasted = keys.read_text()
    keys.write_text("")
    second.new_host_key()
    third.kill_sshd()
    one, two, three = findings_of(pool)
    keys.write_text(pasted)
    third.start_sshd()
    assert wrong(one) == {"Signing in": "It does not let the portal in as team."}
    assert two.another_key
    assert "Host key" in wrong(two)
    assert three.silence == f"{third.address} does not answer. Connection refused"
    assert wrong(three) == {}
    pool.computers.filter(address=second.address).update(host_public=second.host_public)
    assert [wrong(finding) for finding in findings_of(pool)] == [{}, {}, {}]


def test_no_python_is_said_and_a_shell_that_talks_is_no_matter(pool, computers):
    first, second, _ = computers
    first.run("mkdir -p /usr/lib/not; mv /usr/bin/python3 /usr/lib/not/", user="root")
    profile = second.path(f"{HOME}/.bashrc")
    profile.write_text("echo Welcome, and '@coxswain' to you\n")
    one, two, _ = findings_of(pool)
    first.run("mv /usr/lib/not/python3 /usr/bin/", user="root")
    profile.unlink()
    assert wrong(one) == {"Python": "It has no Python."}
    assert (two.silence, wrong(two)) == ("", {})


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, which another clock needs")
def test_a_clock_that_is_wrong_is_refused(pool, computers):
    _, second, _ = computers
    second.shift_clock(-30)
    one, two, _ = findings_of(pool)
    second.shift_clock(0)
    assert wrong(one) == {}
    assert wrong(two)["Clock"].endswith("s slow.")
    assert float(wrong(two)["Clock"].split()[3]) == pytest.approx(30, abs=1)


def test_a_full_disk_and_a_folder_of_somebody_else_are_refused(pool, computers):
    (computers.shared / "something").write_text("x" * 10000)
    computers.fill_shared()
    findings = findings_of(pool)
    computers.empty_shared()
    (computers.shared / "something").unlink()
    assert all("Base folder" in wrong(finding) for finding in findings)
    first = computers.computer[0]
    first.run(f"mkdir -p {SHARED}/theirs && chown root {SHARED}/theirs && chmod 777 {SHARED}/theirs", user="root")
    pool.base = f"{SHARED}/theirs"
    assert wrong(findings_of(pool)[0]) == {"Base folder": f"{SHARED}/theirs belongs to root."}
    pool.base = f"{SHARED}/nowhere/coxswain"
    said = wrong(findings_of(pool)[0])["Base folder"]
    assert said == f"{pool.base} cannot be used: No such file or directory: {pool.base}."
    first.run(f"rm -r {SHARED}/theirs", user="root")


@pytest.mark.slow
def test_thirty_computers_are_checked_within_ten_seconds():
    with Computers(30, disk_mib=16) as thirty:
        pool = make_pool(thirty)
        began = time.monotonic()
        findings = findings_of(pool)
        assert time.monotonic() - began < MOST_SECONDS
        assert [wrong(finding) for finding in findings] == [{}] * 30
        thirty.computer[7].run("rm /usr/bin/ssh", user="root")
        thirty.computer[9].path(f"{HOME}/.ssh/authorized_keys").write_text("")
        refused = {finding.computer.address: set(wrong(finding)) for finding in findings_of(pool) if wrong(finding)}
        assert refused[thirty.computer[7].address] >= {"Programs"}
        assert refused[thirty.computer[9].address] == {"Signing in"}
        assert len(refused) == 2
