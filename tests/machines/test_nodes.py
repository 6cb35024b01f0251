"""Nodes of own machines where a pool is not as one would like it: computers away, shared, odd, or asked for by many."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
import threading
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connections
from django.utils.timezone import now

from clusters import neighbours
from clusters.models import Node
from portal import detached, ssh
from portal.clouds import NoRoom, Refused
from portal.clouds.machines import certificates, cloud, folders, leaving
from portal.clouds.machines.account import MachinesAccount
from portal.clouds.machines.models import Computer, Event, Pool
from tests.clouds import hands, pools
from tests.gitserver import serving
from tests.machines.computers import HOME, SHARED, USER, Computers, why_not
from tests.machines.house import certificate, make_repository
from tests.running import ROOT, until

pytestmark = pytest.mark.django_db
JOBS = detached.Programs(ROOT / "jobs" / "onnode", loads=("job",))
SPY = (ROOT / "tests" / "jobs" / "spy.py").read_text()


@pytest.fixture
def pool(computers, monkeypatch):
    monkeypatch.setattr(hands, "KIND", "2x4")
    yield pools.make(computers)
    tidy(computers)


def tidy(computers):
    for one in computers:
        one.path(f"{HOME}/.ssh/authorized_keys").write_text("")
        one.run("pkill -9 -u team . || true; rm -rf /tmp/*", user="root")
    computers.computer[0].run(f"rm -rf {SHARED}/*", user="root")


@pytest.fixture
def here(pool):
    return MachinesAccount(pool.account).cloud(pool.name)


def host(node, who="portal"):
    certificate = node.certificates[("portal", "cluster").index(who)]
    return ssh.Host(
        node.hostname, node.address, node.port, node.user, hands.private(who), node.host_key, certificate=certificate
    )


def make(here, nodes=2):
    """A cluster, and its nodes."""
    _, where = hands.deploy(here)
    hands.ask(here.ensure_nodes, hands.spec(where, nodes))
    return where, hands.up(here, where, nodes)


def row(node):
    return Computer.objects.get(uuid=node.id)


def of(computers, node):
    """The computer that this node is."""
    return next(one for one in computers if one.name == node.hostname)


def introduce(where, nodes):
    """What the portal's plans write into each home, by the portal's own text."""
    for one in nodes:
        rows = [
            Node(
                rank=node.rank, hostname=node.hostname, host_public=node.host_key, user=node.user, home=node.home,
                private_address=node.private_address, port=node.port, key_certificate=node.certificates[1],
            )
            for node in nodes
        ]  # fmt: skip
        cluster = type("C", (), {"key": hands.private("cluster")})
        texts = neighbours.files(cluster, rows[one.rank], rows)
        ssh.run(host(one), neighbours.making_room(rows[one.rank]))
        for path, text in texts.items():
            ssh.put(host(one), f"{one.home}/{path}", text.encode())


def test_what_is_begun_on_a_node_has_a_home_and_marks_of_its_own_and_the_account_s_home_stays_as_it_is(here, computers):
    where, (node, _) = make(here)
    words = 'echo "$HOME|$PWD|$COXSWAIN_LENT_TO|$COXSWAIN_RUN|$TMPDIR"; stat -c %a "$TMPDIR" .; command -v ssh'
    answer = ssh.run(host(node), ssh.Command(words, env=(("COXSWAIN_RUN", 'it\'s "mine" !'),)))
    home, place, mark, run, temporary, *rest = answer.text.replace("\n", "|").split("|")
    assert (home, place, mark, run) == (node.home, node.home, where.subject, 'it\'s "mine" !')
    assert rest == ["700", "700", f"{node.home}/.bin/ssh"]
    assert temporary == f"/tmp/coxswain-{where.subject}"
    hands.ask(here.delete_nodes, where)
    for one in computers:
        assert one.run("ls -A ~ ~/.ssh; ls /tmp").out.split() == [
            f"{HOME}:",
            ".ssh",
            f"{HOME}/.ssh:",
            "authorized_keys",
        ]


# What a login shell may be given: words, and words in single quotes. Everything else is read by each in its own way.
PLAIN = """#!/usr/bin/python3
import os, re, shlex, sys
line = sys.argv[2]
bare = re.sub(r"'[^'!\\n]*'", "", line)
if sys.argv[1] != "-c" or re.search(r"[;&|<>()`*?#~!$\\n]", bare):
    sys.exit(f"plain: cannot read {line}")
words = shlex.split(line)
os.execvp(words[0], words)
"""


def test_no_login_shell_reads_what_the_portal_and_the_nodes_do():
    """Of csh and fish, which read much of it in ways of their own, this one takes only what all read alike."""
    if why := why_not():
        pytest.skip(why)
    with Computers(2, stem="plain", shell="/usr/local/bin/plain") as two:
        for one in two:
            shell = one.path("/usr/local/bin/plain")
            shell.write_text(PLAIN)
            shell.chmod(0o755)
        pool = pools.make(two)
        here = MachinesAccount(pool.account).cloud(pool.name)
        _, where = hands.deploy(here)
        hands.ask(here.ensure_nodes, hands.spec(where, 2, kind="2x4"))
        first, second = hands.up(here, where, 2)
        introduce(where, [first, second])
        words = 'for n in 1 2; do echo "it\'s $n!"; done\nhostname'
        assert ssh.run(host(first), words).text == f"it's 1!\nit's 2!\n{first.hostname}"
        there = f"ssh {second.hostname} {shlex.quote(words)}"
        assert ssh.run(host(first), there).text == f"it's 1!\nit's 2!\n{second.hostname}"
        hands.ask(here.delete_nodes, where)
        assert here.leftovers(where) == []
        assert not [one for one in two if one.run(f"ls {SHARED}/coxswain/*/.nodes/*", expect=None).out]


@pytest.mark.parametrize(
    "words",
    [
        "ssh {} {}",
        "ssh -x -o BatchMode=yes {} {}",
        "ssh -xoConnectTimeout=5 -p 22 {} -- {}",
        "ssh {} -x {}",
        "env -u HOME ssh -- {} {}",
        "cd / && PATH=/usr/bin:$PATH $HOME/.bin/ssh {} {}",
    ],
)
def test_a_run_s_mark_goes_along_to_other_nodes_however_ssh_is_called(pool, here, words):
    where, (first, second) = make(here)
    introduce(where, [first, second])
    command = shlex.quote("echo $COXSWAIN_RUN on $(hostname) in $PWD")
    for name in (second.hostname, second.private_address):
        line = words.format(name, command)
        answer = ssh.run(host(first), ssh.Command(line, env=(("COXSWAIN_RUN", "a-run"),)))
        assert answer.text == f"a-run on {second.hostname} in {second.home}", answer.err
    answer = ssh.run(host(first), words.format(second.hostname, "hostname"))
    assert answer.text == second.hostname


def test_what_is_no_node_is_reached_as_ever_and_is_told_of_no_run(here):
    where, (first, second) = make(here)
    introduce(where, [first, second])
    asked = ssh.run(host(first), ssh.Command("ssh -G elsewhere.test 'a command'", env=(("COXSWAIN_RUN", "a-run"),)))
    assert "identityfile ~/.ssh/id_ed25519" in asked.text
    assert str(first.home) not in asked.text


def test_what_the_files_of_the_account_s_shell_print_is_no_answer(here, computers):
    for one in computers:
        one.run("printf 'echo Welcome!\necho Take care. >&2\n' > ~/.bashrc")
    try:
        where, nodes = make(here)
        introduce(where, nodes)
        assert ssh.run(host(nodes[0]), "hostname").out == f"{nodes[0].hostname}\n".encode()
        assert detached.look(host(nodes[0]), nodes[0].home) == (None, False, "")
        hands.ask(here.delete_nodes, where)
        assert here.leftovers(where) == []
    finally:
        for one in computers:
            one.run("rm ~/.bashrc")


def test_more_commands_at_once_than_a_connection_has_sessions_all_go_on(here):
    _, (node, _) = make(here)
    wait = (
        "touch $TMPDIR/$0; n=0; while test $(ls $TMPDIR | wc -l) -lt 14 -a $n -lt 200; do sleep .05; n=$((n+1)); done"
    )
    there = host(node)
    calls = [(there, f"sh -c {shlex.quote(wait)} {n}; ls $TMPDIR | wc -l", b"") for n in range(14)]
    answers = ssh.run_each(calls)
    assert [getattr(answer, "text", answer) for answer in answers] == ["14"] * 14


def test_a_terminal_on_a_computer_is_one_of_its_node(here):
    _, (node, _) = make(here)

    async def talk():
        opened = ssh.Connections()
        command = ssh.Command("exec /bin/sh -i", env=(("LANG", "C.UTF-8"),), size=(100, 30))
        try:
            async with opened.terminal(host(node), command) as terminal:
                await terminal.write(b"stty size; echo $LANG $HOME; exit 3\n")
                said = b""
                while block := await terminal.read(4096):
                    said += block
                return said.decode(), await terminal.status()
        finally:
            opened.close()

    said, status = asyncio.run(talk())
    assert "30 100" in said
    assert f"C.UTF-8 {node.home}" in said
    assert status == 3


def test_ending_what_is_a_cluster_s_leaves_others_of_the_account_alone(here, computers):
    where, nodes = make(here)
    node = nodes[0]
    desk = of(computers, node)
    began = "setsid {} </dev/null >/dev/null 2>&1 & "
    ssh.run(host(node), began.format("sleep 1001") + began.format("env -i sleep 1002"))
    ssh.run(host(node), "cd /; " + began.format("env -i sh -c 'cd \"$0\"; sleep 1003 && true' " + node.home))
    desk.run(began.format("env COXSWAIN_LENT_TO=another sleep 1004") + began.format("sleep 1005"))
    sleeping = lambda: sorted(p.words for p in desk.processes(USER) if p.words.startswith("sleep"))  # noqa: E731
    until(lambda: len(sleeping()) == 5, what="five that sleep")
    hands.ask(here.delete_nodes, where)
    assert sleeping() == ["sleep 1004", "sleep 1005"]


def test_what_killed_ranks_leave_in_memory_goes_with_their_cluster_and_what_others_use_stays(here, computers):
    where, nodes = make(here, 1)
    desk = of(computers, nodes[0])
    left = ["/dev/shm/mpich_shm_1_0", "/dev/shm/ucx_shm_posix_1", "/tmp/hydra_hwloc_xmlfile_abc"]
    stays = ["/dev/shm/mpich_shm_2_0", "/dev/shm/somebody_s"]
    desk.run(f"touch {' '.join(left)} /dev/shm/somebody_s; head -c 4096 /dev/zero > {stays[0]}")
    maps = f"import mmap, time; f = open('{stays[0]}', 'r+b'); m = mmap.mmap(f.fileno(), 0); time.sleep(1006)"
    desk.run(f'setsid python3 -c "{maps}" </dev/null >/dev/null 2>&1 &')
    until(lambda: desk.run(f"cat /proc/[0-9]*/maps 2>/dev/null | grep -c {stays[0]} || true").out != "0\n")
    hands.ask(here.delete_nodes, where)
    assert desk.run(f"ls {' '.join(left + stays)} 2>/dev/null || true").out.split() == sorted(stays)
    desk.run(f"rm {' '.join(stays)}")


def test_of_two_clusters_that_want_the_last_computers_at_once_one_has_them(transactional_db, pool, here):
    asked = [hands.deploy(here)[1] for _ in range(2)]
    begin, said = threading.Barrier(2), {}

    def ask(where):
        begin.wait()
        try:
            here.ensure_nodes(hands.spec(where, 2))
        except NoRoom as error:
            said[where] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask, args=(where,)) for where in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (loser,), (winner,) = said, [where for where in asked if where not in said]
    assert said[loser].message == "The pool desks has 1 free computers of the type 2x4, and 2 are asked for."
    assert said[loser].held_by == (winner.subject,) * 2
    assert (len(here.nodes(winner)), here.nodes(loser), here.leftovers(loser)) == (2, [], [])
    quota = here.offer("2x4", 2).quotas[0]
    assert (quota.left, quota.held_by) == (1, (winner.subject,) * 2)
    hands.ask(here.delete_nodes, winner)


def test_one_that_does_not_answer_is_given_up_for_another_and_swept_when_it_is_back(here, computers):
    first = computers.computer[0]
    first.kill_sshd()
    try:
        where, nodes = make(here)
    finally:
        first.start_sshd()
    assert [node.hostname for node in nodes] == ["desk3", "desk2"]
    lost = Computer.objects.get(hostname="desk1")
    assert (lost.state, lost.is_leaving, lost.subject) == (Computer.State.AWAY, True, where.subject)
    (left,) = [one for one in here.leftovers(where) if one.is_looked_after]
    assert left.id == "desk1"
    assert leaving.sweep([lost]) == []
    assert Computer.objects.get(pk=lost.pk).is_taken, "whoever has given it back is busy with it"
    Computer.objects.filter(pk=lost.pk).update(left=now() - timedelta(minutes=3))
    assert leaving.sweep([lost]) == []
    assert not Computer.objects.get(pk=lost.pk).is_taken
    assert ssh.run(host(nodes[0]), "hostname; echo $HOME").text == f"desk3\n{nodes[0].home}", "its successor's home"
    hands.ask(here.delete_nodes, where)


def test_one_that_is_away_at_the_end_stays_taken_until_it_was_swept(here, computers, monkeypatch):
    monkeypatch.setattr(cloud, "_AWAY_AFTER", 1.0)
    where, (first, second) = make(here)
    away = of(computers, second)
    ssh.run(host(second), "setsid sleep 1006 </dev/null >/dev/null 2>&1 &")
    away.kill_sshd()
    try:
        assert away.name in here.delete_nodes(where).detail
        hands.ask(here.delete_nodes, where)
    finally:
        away.start_sshd()
    assert here.nodes(where) == []
    assert [(one.id, one.is_looked_after) for one in here.leftovers(where)] == [(away.name, True)]
    assert (row(first).is_taken, row(second).is_taken) == (False, True)
    assert where not in here.owners(where.portal), "the cloud looks after it, and no row has to"
    with pytest.raises(NoRoom):
        here.ensure_nodes(hands.spec(where, 3))
    Computer.objects.update(left=now() - timedelta(minutes=3))
    assert [process for process in away.processes(USER) if process.words == "sleep 1006"]
    leaving.sweep([row(second)])
    assert not row(second).is_taken
    assert not [process for process in away.processes(USER) if "sshd" not in process.words]
    assert away.run(f"ls -A {SHARED}/coxswain/*/.nodes").out == ""
    words = list(Event.objects.filter(computer=row(second)).values_list("words", flat=True))
    assert words == ["Swept, and free again.", "Given back.", "Taken as node 1 of a cluster."]


def test_one_that_is_known_to_be_away_is_replaced_and_one_that_is_slow_is_not(here, computers):
    where, (_, second) = make(here)
    desk = of(computers, second)
    ssh.hang_up([certificates.host(row(second).pool, row(second))])
    desk.kill_sshd()
    try:
        with pytest.raises(Exception, match="desk2 does not answer"):
            here.ensure_nodes(hands.spec(where, 2))
        assert [node.hostname for node in here.nodes(where)] == ["desk1", "desk2"]
        Computer.objects.filter(hostname="desk2").update(state=Computer.State.AWAY)
        assert [node.is_coming for node in here.nodes(where)] == [True, True], "it may come back"
        assert [node.is_away for node in here.nodes(where)] == [False, True]
        Computer.objects.filter(hostname="desk3").update(is_disabled=True)
        with pytest.raises(NoRoom, match=r"^The computer desk2 does not answer\. The pool desks has 0 free computers"):
            here.ensure_nodes(hands.spec(where, 2))
        Computer.objects.filter(hostname="desk3").update(is_disabled=False)
        hands.ask(here.ensure_nodes, hands.spec(where, 2))
    finally:
        desk.start_sshd()
    assert [node.hostname for node in hands.up(here, where, 2)] == ["desk1", "desk3"]
    hands.ask(here.delete_nodes, where)


def test_one_that_shows_another_host_key_is_not_signed_in_to_and_another_one_is_taken(here, computers):
    Computer.objects.filter(hostname="desk1").update(host_public=hands.public("host of somebody else"))
    where, nodes = make(here)
    assert [node.hostname for node in nodes] == ["desk3", "desk2"]
    refused = Computer.objects.get(hostname="desk1")
    assert (refused.state, refused.is_taken) == (Computer.State.REFUSED, False)
    assert "another host key" in refused.failing[0]["message"]
    hands.ask(here.delete_nodes, where)


def test_what_another_portal_has_taken_is_left_to_it(here, computers):
    """That one knows of nothing here: it has the same account, and another base folder."""
    where, _ = make(here)
    Pool.objects.all().delete()  # now the portal of this test is the other one
    mine = pools.make(computers, name="mine", base=f"{SHARED}/mine")
    other = MachinesAccount(mine.account).cloud(mine.name)
    _, wanted = hands.deploy(other)
    with pytest.raises(NoRoom, match="has 1 free computers of the type 2x4, and 2 are asked for"):
        other.ensure_nodes(hands.spec(wanted, 2))
    marked = dict(mine.computers.values_list("hostname", "marked"))
    assert marked == {"desk1": where.subject, "desk2": where.subject, "desk3": ""}
    assert not mine.computers.exclude(subject="").exists(), "what was begun on it is taken back"
    with pytest.raises(NoRoom, match="has 1 free computers of the type 2x4, and 2 are asked for"):
        other.ensure_nodes(hands.spec(wanted, 2))
    hands.ask(other.ensure_nodes, hands.spec(wanted, 1))
    assert [node.hostname for node in hands.up(other, wanted, 1)] == ["desk3"]
    first = computers.computer[0]
    assert f"coxswain-{where.subject}" in first.run("ls /tmp").out, "what is theirs stays"
    assert first.run(f"ls -d {SHARED}/mine/*/.nodes/*/1", expect=None).out == "", "what was made there is taken back"
    hands.ask(other.delete_nodes, wanted)


def test_workspaces_with_accounts_of_their_own_cannot_read_each_other(pool, here, computers):
    base = f"{SHARED}/guests"
    guests = Pool(account=pool.account, name="guests", user="guest", base=base, alone=True)
    certificates.new_authority(guests)
    guests.save()
    line = shlex.quote(guests.authorized_key)
    for one in computers:
        one.run(
            "useradd --uid 6002 --home-dir /home/guest --create-home --shell /bin/bash guest; "
            f"install -d -o guest -m 700 /home/guest/.ssh {base}; echo {line} > /home/guest/.ssh/authorized_keys; "
            "chown guest /home/guest/.ssh/authorized_keys", user="root",
        )  # fmt: skip
        pools.add(guests, one)
    there = MachinesAccount(pool.account).cloud("guests")
    _, theirs = hands.deploy(there)
    hands.ask(there.ensure_nodes, hands.spec(theirs, 1))
    (guest,) = hands.up(there, theirs, 1)
    where, (node, _) = make(here)
    assert (guest.hostname, node.hostname) == ("desk1", "desk2"), "each has its own"
    assert "to itself" in guest.note
    assert "not kept apart" in node.note
    ssh.run(host(guest), f"echo secret > {guest.shared}/file && chmod 644 {guest.shared}/file")
    ssh.run(host(node), f"echo secret > {node.shared}/file && chmod 644 {node.shared}/file")
    for reader, path in ((node, guest.shared), (guest, node.shared)):
        answer = ssh.run(host(reader), f"cat {path}/file; ls {path}")
        assert (answer.text, answer.said.count("Permission denied")) == ("", 2)
    hands.ask(there.delete_nodes, theirs)
    hands.ask(here.delete_nodes, where)
    for one in computers:
        one.run(f"userdel --remove guest; rm -rf {base}", user="root", expect=None)


def test_a_folder_that_was_not_used_for_a_day_keeps_no_portal_off(here, computers):
    for one in computers:
        one.run("mkdir -m 700 /tmp/coxswain-01234567-89ab-cdef-0123-456789abcdef")
        one.run("touch -d '25 hours ago' /tmp/coxswain-01234567-89ab-cdef-0123-456789abcdef")
    where, nodes = make(here, 3)
    assert len(nodes) == 3
    hands.ask(here.delete_nodes, where)


def test_a_node_whose_computer_has_another_name_now_is_refused_in_words(here):
    Computer.objects.filter(hostname="desk1").update(hostname="desk9")
    _, where = hands.deploy(here)
    with pytest.raises(Refused, match=r"The computer desk9 calls itself desk1 now\."):
        here.ensure_nodes(hands.spec(where, 3))
    hands.ask(here.delete_nodes, where)


def test_after_a_crash_before_anything_was_prepared_the_same_computers_are(pool, here):
    _, where = hands.deploy(here)
    taken = cloud._take(pool, hands.spec(where, 2))
    assert not any(node.running or node.address for node in here.nodes(where))
    hands.ask(here.ensure_nodes, hands.spec(where, 2))
    assert [node.id for node in hands.up(here, where, 2)] == [str(one.uuid) for one in taken]


def test_a_folder_without_our_marker_is_neither_used_nor_removed(pool, here, computers):
    desk = computers.computer[0]
    workspace = hands.tags()
    place = f"{SHARED}/coxswain/{workspace.workspace}"
    desk.run(f"mkdir -p {place} && echo theirs > {place}/file")
    with pytest.raises(Refused) as caught:
        here.ensure_filesystem(hands.site(workspace))
    assert caught.value.code == "not_ours"
    other = replace(workspace, portal="portal-2")
    for marker in ("", folders.marker(other)):
        desk.run(f"echo {shlex.quote(marker)} > {place}/{folders.MARKER}")
        with pytest.raises(Refused, match="its marker is not this workspace's, or is gone"):
            here.delete_filesystem(workspace)
        assert [found.kind for found in here.leftovers(workspace)] == ["filesystem"], "it is said to be there"
    assert desk.run(f"cat {place}/file").out == "theirs\n"
    assert here.owners("portal-1") == set()


def test_a_certificate_lets_nobody_in_but_whom_it_names_and_nowhere_but_into_its_cluster(pool, here, computers):
    where, (node, _) = make(here)
    desk = of(computers, node)
    assert f"ID workspace {where.workspace}" in desk.log or ssh.run(host(node), "true").status == 0
    assert ssh.run(host(node, "cluster"), "echo $HOME").text == node.home
    assert f"ID cluster {where.subject}" in desk.log
    assert f"ID workspace {where.workspace}" in desk.log
    other = Pool(account=uuid.uuid4(), name="other", user=USER, base=pool.base)
    certificates.new_authority(other)
    other.save()
    for authority in (other, pool):
        stranger = Pool(uuid=other.uuid, key_private="", key_public="", name="", account=authority.account)
        private = ssh.sign(
            certificates.secrets.unseal(authority, "key_private"),
            hands.public("cluster"),
            name="somebody",
            principals=[stranger.principal],
        )
        with pytest.raises(Refused, match="does not accept"):
            ssh.run(replace(host(node, "cluster"), certificate=private), "true")
    hands.ask(here.delete_nodes, where)
    answer = ssh.run(host(node, "cluster"), "echo in")
    assert (answer.text, answer.status != 0) == ("", True)
    assert "enter" in answer.said


def test_a_run_s_processes_are_found_on_every_node_by_its_mark(here, computers):
    where, nodes = make(here)
    introduce(where, nodes)
    first, second = nodes
    began = f"ssh {second.hostname} 'setsid sleep 1007 </dev/null >/dev/null 2>&1 &'"
    ssh.run(host(first), ssh.Command(began, env=(("COXSWAIN_RUN", "a-run"),)))
    ssh.run(host(second), "setsid sleep 1008 </dev/null >/dev/null 2>&1 &")
    assert [answer.text for answer in detached.sweep([host(one) for one in nodes], "a-run")] == ["0", "1"]
    words = [process.words for process in of(computers, second).processes(USER)]
    assert "sleep 1008" in words
    assert "sleep 1007" not in words


def test_who_looks_into_every_process_of_the_account_finds_no_password_of_a_repository(here, computers, tmp_path):
    _, (node,) = make(here, 1)
    one, run, to = of(computers, node), str(uuid.uuid4()), f"{SHARED}/spied"
    folder = f"{node.shared}/.runs/{run}"
    one.run("mkdir -p ~/engine/bin; printf '#!/bin/sh\n' > ~/engine/bin/mpiexec; chmod 755 ~/engine/bin/mpiexec")
    repository = tmp_path / "private"
    make_repository(repository, {"ex.py": "X = 1\n"})
    words = [word.hex() for word in (b"t0ken-of", base64.b64encode(b"somebody:t0ken-of-somebody")[4:-4])]
    spy = shlex.join(["python3", "-ISc", SPY, json.dumps({"words": words, "but": [], "to": to})])
    one.run(f"setsid {spy} > /dev/null 2>&1 < /dev/null &")

    def spied():
        return json.loads(one.path(to).read_text()) if one.path(to).exists() else {"rounds": 0}

    def look(path):
        rounds = spied()["rounds"]
        until(lambda: spied()["rounds"] > rounds + 1, seconds=50, what="two more looks")

    with serving(tmp_path, computers.here, certificate(computers.here, tmp_path)) as server:
        computers.trust((tmp_path / "certificate").read_text())
        server.asks_for, server.before = ("somebody", "t0ken-of-somebody"), look
        order = {
            "git_url": f"{server.url}/private/.git", "reference": "", "command": ["ex.py"], "cores": 1,
            "hostfile": "hostfile", "engine": f"{HOME}/engine", "shared": node.shared, "allow_this_machine": False,
            "scratch": f"{node.home}/.scratch", "environment": {"COXSWAIN_RUN": run},
        }  # fmt: skip
        look("")
        detached.start(
            host(node), folder, argv=[folder, json.dumps(order)], env={}, program="job", programs=JOBS,
            secret=json.dumps({"username": "somebody", "password": "t0ken-of-somebody"}),
        )  # fmt: skip
        until(lambda: detached.look(host(node), folder)[0], seconds=90, what="the end")
    facts = json.loads(one.path(f"{folder}/facts.json").read_text())
    assert facts.get("subject") == "Files", facts
    assert [path for path, authorization in server.asked if authorization]
    assert spied()["found"] == []
    assert min(spied()["open"]) > 0, "it has seen what git has, and looked into it"
