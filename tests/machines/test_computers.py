"""The computers that the tests of own machines use are as real ones are, where it counts."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.machines.computers import SHARED, UID, Computers, why_not
from tests.running import ROOT, until


@pytest.fixture(scope="module")
def key(computers, tmp_path_factory):
    """One that `team` lets in, on all of them."""
    key = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", key], check=True)
    computers.paste(f"restrict,pty,port-forwarding {key.with_suffix('.pub').read_text()}")
    return key


@pytest.fixture
def ssh(computers, key, tmp_path):
    """Commands over SSH from this computer, with the host keys pinned."""
    known = tmp_path / "known"
    known.write_text("".join(f"{one.address} {one.host_public}\n" for one in computers))

    def ssh(one, command, *more, patience=10):
        return subprocess.run(
            ["ssh", "-F", "none", "-i", key, "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes",
             "-o", "StrictHostKeyChecking=yes", "-o", f"ConnectTimeout={patience}", "-o", "GlobalKnownHostsFile=none",
             *more, f"team@{one.address}", command],
            capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return ssh


def test_each_has_a_name_an_account_and_processes_of_its_own(computers, ssh):
    for one in computers:
        done = ssh(one, f'echo "$(hostname) $(id -un) $(id -u) $PWD"; ls {ROOT} /root')
        assert done.stdout == f"{one.name} team {UID} /home/team\n", done.stderr
    first, second, _ = computers
    ssh(first, "setsid sleep 987 >/dev/null 2>&1 </dev/null &")
    until(lambda: [process.words for process in first.processes("team")] == ["sleep 987"], what="that it alone is left")
    assert second.processes("team") == []
    assert ssh(second, "ps -e | grep -c sleep.987").stdout == "0\n"
    first.run("pkill sleep")
    until(lambda: not first.processes("team"), what="its end, with no zombie")


def test_they_share_one_folder_and_no_other(computers):
    first, second, third = computers
    first.run(f"echo ours > {SHARED}/word; echo mine > ~/word; echo mine > /tmp/word")
    assert second.run(f"cat {SHARED}/word ~/word /tmp/word", expect=1).out == "ours\n"
    third.unshare_path()
    assert third.run(f"ls {SHARED}").out == ""
    third.share_path()
    assert third.run(f"cat {SHARED}/word").out == "ours\n"
    assert not Path("/srv/team").exists()
    first.run(f"rm {SHARED}/word ~/word")


def test_they_reach_each_other_by_name_at_any_port(computers):
    first, second, _ = computers
    listens = (
        "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1], flush=True); "
        "s.accept()[0].send(b'here')"
    )
    first.run(f'setsid python3 -c "{listens}" > {SHARED}/port 2>&1 &')
    port = int(until((computers.shared / "port").read_text))
    asks = f"import socket; print(socket.create_connection(('{first.name}', {port}), 5).recv(9))"
    assert second.run(f'python3 -c "{asks}"').out == "b'here'\n"


def test_a_portal_s_variables_are_not_taken_and_at_most_ten_sessions_fit_into_a_connection(computers, ssh):
    (first, *_) = computers
    done = ssh(first, "env | grep -c COXSWAIN_RUN", "-o", "SetEnv=COXSWAIN_RUN=a-run")
    assert done.stdout == "0\n"
    assert "maxsessions 10\n" in first.run("/usr/sbin/sshd -T", user="root").out


def test_one_without_its_ssh_server_keeps_what_has_left_its_session(computers, ssh):
    (first, *_) = computers
    ssh(first, "setsid sleep 987 >/dev/null 2>&1 </dev/null &")
    first.kill_sshd()
    assert "refused" in ssh(first, "true").stderr
    assert [process.words for process in first.processes("team")] == ["sleep 987"]
    first.start_sshd()
    assert ssh(first, "pkill sleep").returncode == 0


def test_a_frozen_one_takes_connections_and_says_nothing_until_it_thaws(computers, ssh):
    (first, *_) = computers
    first.freeze()
    assert "timed out" in ssh(first, "true", patience=1).stderr
    first.thaw()
    assert ssh(first, "hostname").stdout == "desk1\n"


def test_an_unplugged_one_is_as_silent_and_goes_on(computers, ssh):
    first, second, _ = computers
    first.unplug()
    assert ssh(first, "true", patience=1).returncode == 255
    assert ssh(second, "hostname").stdout == "desk2\n"
    assert first.run("hostname").out == "desk1\n"
    first.plug()
    assert until(lambda: ssh(first, "hostname").stdout) == "desk1\n"


def test_a_reboot_ends_processes_and_keeps_files_and_its_boot_id_tells(computers, ssh):
    (first, *_) = computers
    was = first.run("cat /proc/sys/kernel/random/boot_id").out
    ssh(first, "touch kept /tmp/lost; setsid sleep 987 >/dev/null 2>&1 </dev/null &")
    first.reboot()
    assert first.processes("team") == []
    assert ssh(first, "ls ~ /tmp/lost; rm kept").stdout == "/home/team:\nkept\n"
    assert first.run("cat /proc/sys/kernel/random/boot_id").out != was


def test_another_host_key_is_noticed_by_who_has_pinned_the_first(computers, ssh):
    (first, *_) = computers
    was = first.host_public
    assert first.new_host_key() != was
    assert "IDENTIFICATION HAS CHANGED" in ssh(first, "true").stderr


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, which another clock needs")
def test_a_clock_that_is_wrong_is_wrong_for_whatever_starts(computers, ssh):
    (first, *_) = computers
    first.shift_clock(-3600)
    told = ssh(first, "date +%s; python3 -c 'import time; print(int(time.time()))'").stdout.split()
    assert all(abs(int(word) - time.time() + 3600) < 20 for word in told)
    first.shift_clock(0)
    assert abs(int(ssh(first, "date +%s").stdout) - time.time()) < 20


def test_a_disk_that_is_full_takes_nothing_more(computers):
    first, second, _ = computers
    first.fill_disk()
    assert "No space left" in first.run("head -c 1000000 /dev/zero > ~/more", expect=1).err
    second.run("head -c 1000000 /dev/zero > ~/more; rm ~/more")
    first.empty_disk()
    first.run("head -c 1000000 /dev/zero > ~/more; rm ~/more")
    computers.fill_shared()
    assert "No space left" in second.run(f"head -c 1000000 /dev/zero > {SHARED}/more", expect=1).err
    computers.empty_shared()
    second.run(f"head -c 1000000 /dev/zero > {SHARED}/more; rm {SHARED}/more")


def test_a_package_index_is_found_by_the_way_that_sessions_are_told_of(computers, ssh):
    (first, *_) = computers
    sees = (
        "import os, urllib.request; "
        "print(urllib.request.getproxies()['https'], urllib.request.urlopen('https://pypi.org/simple/mpich/').status)"
    )
    done = ssh(first, f'python3 -c "{sees}"')
    if "Bad Gateway" in done.stderr:
        pytest.skip("there is no package index")
    assert done.stdout == f"{computers.proxy.url} 200\n", done.stderr


def networks():
    return {card.name for card in Path("/sys/class/net").iterdir() if card.name.startswith("cx")}


def test_several_sets_stand_side_by_side_and_do_not_meet(computers):
    with Computers(1) as others:
        (other,) = others
        assert other.address != computers.computer[0].address
        other.run(f"touch {SHARED}/theirs")
        assert not (computers.shared / "theirs").exists()
        card = f"cx{others.net}"
        assert card in networks()
    assert card not in networks()


def test_nothing_stays_when_the_process_that_made_them_is_killed(computers):
    makes = (
        "from tests.machines.computers import Computers; two = Computers(2); "
        "print(two.net, *(one.pid for one in two), flush=True); input()"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", makes], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    net, *pids = maker.stdout.readline().split()
    assert f"cx{net}" in networks()
    maker.kill()
    maker.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="the end of their processes")
    until(lambda: f"cx{net}" not in networks(), what="the end of their network")


def test_where_there_can_be_none_a_sentence_says_why(monkeypatch):
    monkeypatch.setattr("tests.machines.computers.SSHD", "/nowhere")
    assert why_not() in ("there is no SSH server (openssh-server)", "only root can make computers")
