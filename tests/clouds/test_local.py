"""Nodes on this computer are real: what people do on a node works, and what they must not see they do not see."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from pathlib import Path

import asyncssh
import pytest

from portal import detached
from portal.clouds import Passing, Refused
from portal.clouds.local import LocalAccount, LocalCloud, limits, processes, shims
from portal.clouds.local import cloud as local_module

from . import hands

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["namespaces", "landlock", "plain"])
def rung(request):
    return request.param


class Cluster:
    def __init__(self, cloud, nodes, kind="local.1"):
        self.cloud = cloud
        self.workspace, self.tags = hands.deploy(cloud)
        self.spec = hands.spec(self.tags, nodes, kind=kind)
        cloud.ensure_nodes(self.spec)
        self.nodes = hands.up(cloud, self.tags, nodes)
        self.folder = cloud._workspace(self.tags).cluster(self.tags.subject)

    def state(self, rank):
        return self.folder.node(rank).state()


@pytest.fixture
def make(local):
    def make(rung, nodes=1, **options):
        return Cluster(local(rung, **options), nodes)

    return make


# -- being a node


def test_names_addresses_homes_and_shared(make):
    cluster = make("namespaces", 3)
    names = [
        hands.said(node, "hostname; uname -n; python3 -c 'import socket; print(socket.gethostname())'").split()
        for node in cluster.nodes
    ]
    assert names == [[f"demo-{rank}"] * 3 for rank in range(3)]
    for node in cluster.nodes:
        assert hands.said(node, f"echo {node.rank} > ~/mine; echo {node.rank} > /shared/{node.rank}; pwd") == "/node"
    for node in cluster.nodes:
        assert hands.said(node, "cat ~/mine; ls -A /tmp | grep -c ' '; ls /shared").split()[0] == str(node.rank)
        assert hands.said(node, "ls /shared").split() == ["0", "1", "2"]
        assert hands.said(node, "getent hosts demo-2").split() == [cluster.nodes[2].address, "demo-2"]
    assert {
        hands.said(node, "echo ~nobody >/dev/null; getent passwd $(id -u) | cut -d: -f6") for node in cluster.nodes
    } == {"/node"}


def test_in_plain_names_are_simulated_and_said_to_be(make):
    cluster = make("plain", 2)
    names = [
        hands.said(node, "hostname; python3 -c 'import socket; print(socket.gethostname())'").split()
        for node in cluster.nodes
    ]
    assert names == [["demo-0"] * 2, ["demo-1"] * 2]
    assert all("simulated" in node.note for node in cluster.nodes)
    assert hands.said(cluster.nodes[0], "pwd") == cluster.nodes[0].home
    assert Path(cluster.nodes[0].shared).is_dir()


def test_host_keys_are_pinned_and_only_our_keys_get_in(make, rung):
    (node,) = make(rung).nodes

    async def enter(**options):
        async with hands.connect(node, **options) as connection:
            return (await connection.run("echo in")).stdout

    assert asyncio.run(enter()) == asyncio.run(enter(who="cluster")) == "in\n"
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        asyncio.run(enter(host_key="host 1"))
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(enter(who="stranger"))
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(enter(user="somebody-else"))


def test_the_environment_is_ours_alone(local, rung, monkeypatch):
    monkeypatch.setenv("PORTAL_SECRET_KEY", "hunter2")
    monkeypatch.setenv("DATABASE_URL", "postgres://user:hunter2@db/portal")
    monkeypatch.setenv("PIP_FIND_LINKS", "/opt/some wheels")
    monkeypatch.setenv("UV_CACHE_DIR", "/portal/cache")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    (node,) = Cluster(local(rung), 1).nodes
    env = dict(line.split("=", 1) for line in hands.said(node, "env").splitlines())
    assert env["HOME"] == node.home
    assert env["PIP_FIND_LINKS"] == "/opt/some wheels"
    if rung == "namespaces":  # the portal's proxy is the way out's to use
        assert env["https_proxy"] == f"http://{node.private_address}:3128"
    else:
        assert env["https_proxy"] == "http://proxy:3128"
    assert env["HYDRA_LAUNCHER"] == "ssh"
    assert not env.keys() & {"HOSTNAME", "PORTAL_SECRET_KEY", "DATABASE_URL", "UV_CACHE_DIR", "SSH_CLIENT"}
    everything = hands.run(node, "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | sort -u").stdout
    if rung == "namespaces":  # in plain the test's own environment can be read: that is what plain says of itself
        assert "hunter2" not in everything
    assert hands.said(node, 'python3 -c "import sys; assert sys.version_info >= (3, 11)"; type -p python3').endswith(
        "/bin/python3"
    )


def test_from_the_client_only_harmless_variables_come(make, rung):
    (node,) = make(rung).nodes
    sent = {"COXSWAIN_RUN": "1", "LC_ALL": "C", "LD_PRELOAD": "x", "HOME": "/", "PATH": "/", "COXSWAIN_NODE_OF": "x"}
    env = dict(line.split("=", 1) for line in hands.run(node, "env", env=sent).stdout.splitlines())
    assert env["COXSWAIN_RUN"] == "1"
    assert env["LC_ALL"] == "C"
    assert "LD_PRELOAD" not in env
    assert env["HOME"] == node.home
    assert len(env["COXSWAIN_NODE_OF"]) == 32


def test_environments_made_on_a_node_do_not_depend_on_it(make, rung):
    (node,) = make(rung).nodes
    out = hands.said(node, f"cd '{node.shared}' && python3 -m venv --without-pip v && cat v/pyvenv.cfg")
    home = next(line.split(" = ")[1] for line in out.splitlines() if line.startswith("home"))
    assert Path(home).is_relative_to(sys.base_prefix)


# -- not seeing the portal


def test_the_portals_folder_and_processes_cannot_be_seen(make):
    cluster = make("namespaces", 2)
    node = cluster.nodes[0]
    data = cluster.cloud.hidden[1]
    (data / "secrets").write_text("hunter2")
    with socket.socket(socket.AF_UNIX) as redis:
        os.chdir(data)  # a path of a socket is short
        redis.bind("redis.sock")
        os.chdir("/")
        quoted = f"'{data}'"
        tries = [
            f"ls -A {quoted}",
            f"umount {quoted}; umount -l {quoted}; ls -A {quoted}",
            f'unshare -Urm sh -c "umount {quoted}; umount -l {quoted}; ls -A {quoted}"',
            f'unshare -m sh -c "umount {quoted}; ls -A {quoted}"',
            f"ls -A /proc/1/root{quoted} /proc/2/root{quoted}",
            f"for d in /proc/[0-9]*/cwd /proc/[0-9]*/fd/*; do ls -d $d/{quoted} $d/../secrets $d/secrets; done",
            "chroot /proc/1/root ls /.old /oldroot",
            f"touch {quoted}/x && echo made",
            "touch /x && echo made",
        ]
        for attempt in tries:
            out = hands.run(node, attempt, stderr=asyncssh.DEVNULL).stdout
            assert "secrets" not in out, attempt
            assert "redis" not in out, attempt
            assert "local" not in out, attempt
            assert "made" not in out, attempt
    for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/fd/2", "/proc/1/root/etc"):
        assert hands.run(node, f"head -c 1 {path} || ls {path}/").exit_status != 0, path
    pids = hands.said(node, "ls /proc | grep '^[0-9]*$'").split()
    assert len(pids) < 8
    key = cluster.spec.host_keys[1].private.splitlines()[2]
    found = hands.run(node, f"grep -rsl '{key}' /node /shared /tmp /dev/shm /.node /etc/hosts").stdout
    assert found == ""


def test_root_of_a_node_cannot_reach_the_kernel_or_the_disks(make):
    if os.getuid():
        pytest.skip("the portal does not run as root here, so nobody is root on a node")
    (node,) = make("namespaces").nodes
    for attempt in (
        "mount -t tmpfs x /mnt",
        "echo x > /proc/sys/kernel/hostname",
        "echo 1 > /proc/sysrq-trigger && grep -q sysrq /proc/sysrq-trigger",
        "mknod /tmp/disk b 8 0",
        "ls /dev/sd* /dev/vd* /dev/nvme* /dev/mem",
        "mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x",
        "nsenter -t 1 -m true",
        "chroot /proc/1/root true",
    ):
        assert hands.run(node, attempt).exit_status != 0, attempt


def test_nothing_of_who_starts_a_node_gets_into_it(make, rung, monkeypatch):
    """Neither the worker's environment nor descriptors that it lets its children have reach a node."""
    monkeypatch.setenv("PORTAL_SECRET_KEY", "hunter2")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    cluster = make(rung)
    os.close(writing)
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b"", "a process of the node holds the worker's pipe"
    os.close(reading)
    for process in cluster.folder.processes().machinery:
        with contextlib.suppress(PermissionError):
            assert b"hunter2" not in Path(f"/proc/{process.pid}/environ").read_bytes()


# -- running things


def test_five_megabytes_arrive_exactly(make, rung):
    (node,) = make(rung).nodes
    done = hands.run(
        node,
        "python3 -c \"import sys; sys.stdout.buffer.write(bytes(range(256)) * 20480); print('end', file=sys.stderr)\"",
        encoding=None,
    )
    assert done.stdout == bytes(range(256)) * 20480
    assert done.stderr == b"end\n"
    echoed = hands.run(node, "cat", input=bytes(range(256)) * 4096, encoding=None)
    assert echoed.stdout == bytes(range(256)) * 4096


def test_short_commands_lose_no_tail(make, rung):
    (node,) = make(rung).nodes

    async def go():
        async with hands.connect(node) as connection:
            return [
                (await connection.run(f"echo out {n}; echo err {n} >&2; seq 200; echo tail {n}")).stdout
                for n in range(30)
            ]

    for n, out in enumerate(asyncio.run(go())):
        assert out.startswith(f"out {n}\n")
        assert out.endswith(f"200\ntail {n}\n")


def test_a_client_that_does_not_read_holds_the_command_back(make):
    cluster = make("namespaces")
    (node,) = cluster.nodes
    server = max(cluster.folder.processes().machinery, key=lambda process: process.pid)
    before = _rss(server.pid)

    async def go():
        async with hands.connect(node) as connection:
            process = await connection.create_process(
                "head -c 100000000 /dev/zero; touch /shared/written", encoding=None, window=1 << 16
            )
            await process.stdout.readexactly(1)
            hands.until(_quiet(server.pid))  # in which this client reads nothing at all
            assert not (cluster.folder.shared / "written").exists()
            size = 1
            while block := await process.stdout.read(1 << 20):
                size += len(block)
            return size, (await process.wait()).exit_status

    assert asyncio.run(asyncio.wait_for(go(), 60)) == (100_000_000, 0)
    assert _rss(server.pid) - before < 30 << 20


def _quiet(pid):
    """True once the process has not read anything for a while."""
    seen = []

    def look():
        seen.append(Path(f"/proc/{pid}/io").read_text() if os.access(f"/proc/{pid}/io", os.R_OK) else "unreadable")
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    return look


def _rss(pid):
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_exit_codes_and_signals(make, rung):
    (node,) = make(rung).nodes
    assert [hands.run(node, f"exit {code}").exit_status for code in (0, 1, 77, 255)] == [0, 1, 77, 255]
    killed = hands.run(node, "kill -9 $$")
    assert killed.exit_signal[0] == "KILL"
    assert hands.run(node, "no-such-command-here").exit_status == 127


def test_a_child_that_keeps_the_output_open_does_not_hang_the_session(make, monkeypatch):
    (node,) = make("namespaces").nodes
    begin = time.monotonic()
    done = hands.run(node, "sleep 60 & echo started")
    assert (done.stdout, done.exit_status) == ("started\n", 0)
    assert time.monotonic() - begin < 20


def test_signals_and_terminals(make, rung):
    (node,) = make(rung).nodes

    async def go():
        async with hands.connect(node) as connection:
            process = await connection.create_process(
                "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
            )
            assert await process.stdout.readline() == "ready\n"
            process.send_signal("TERM")
            ended = await process.wait()
            assert (ended.stdout, ended.exit_status) == ("caught\n", 3)
            terminal = await connection.create_process(
                "tty; stty size; echo $TERM", term_type="xterm", term_size=(90, 33)
            )
            done = await terminal.wait()
            assert "/dev/pts/" in done.stdout
            assert "33 90" in done.stdout
            assert "xterm" in done.stdout
            shell = await connection.create_process(term_type="xterm")
            shell.stdin.write("echo $((6*7)); exit 5\n")
            done = await shell.wait()
            assert "42" in done.stdout
            assert done.exit_status == 5

    asyncio.run(asyncio.wait_for(go(), 30))


GREETER = (
    'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); '
    's.accept()[0].send(b"hello")'
)


def test_files_go_over_sftp_and_the_node_can_be_reached_through(make, rung):
    (node,) = make(rung).nodes

    async def go():
        async with hands.connect(node) as connection:
            async with connection.start_sftp_client() as sftp:
                async with sftp.open("a file", "wb") as file:
                    await file.write(b"x" * 100_000)
                assert await sftp.getsize("a file") == 100_000
                assert await sftp.realpath(".") == node.home
            server = await connection.create_process(f"python3 -c '{GREETER}'")
            port = int(await server.stdout.readline())
            reader, _ = await connection.open_connection("127.0.0.1", port)
            assert await reader.read(5) == b"hello"
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_connection("127.0.0.2", port)

    asyncio.run(asyncio.wait_for(go(), 30))


def test_disconnecting_ends_the_session_whatever_it_has_become(make, rung):
    (node,) = make(rung).nodes
    number = a_number()

    async def go():
        connection = await hands.connect(node)
        process = await connection.create_process(
            f"setsid sleep {number} </dev/null >/dev/null 2>&1 & env -i setsid sleep {number} & "
            f"trap '' HUP; (trap '' TERM; while :; do sleep {number}; done) & echo ready; sleep {number}"
        )
        assert await process.stdout.readline() == "ready\n"
        hands.until(lambda: len(_sleepers(number)) == 4)
        connection.abort()

    asyncio.run(go())
    hands.until(lambda: not _sleepers(number))


def a_number():
    """Seconds to sleep, so that the sleeper can be found."""
    return str(10_000_000 + uuid.uuid4().int % 1_000_000)


DAEMON = """
import os, sys
if not os.fork():
    os.setsid()
    if not os.fork():
        os.closerange(0, 100)
        os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
    os._exit(0)
os.wait()
"""


def test_a_daemon_without_a_trace_of_its_run_ends_with_its_session(make, rung):
    (node,) = make(rung).nodes
    number = a_number()
    done = hands.run(node, f"python3 - {number}; echo ended", input=DAEMON)
    assert done.stdout == "ended\n"
    assert not _sleepers(number)


# -- sessions that stay, and sweeping


STAYS = "echo $COXSWAIN_STAY; setsid sleep NUMBER & env -i sleep NUMBER & exec >&- 2>&-; sleep NUMBER"


def _stay(node, number, run="run-1"):
    sent = {"COXSWAIN_DETACH": "1", "COXSWAIN_RUN": run}
    done = hands.run(node, STAYS.replace("sleep NUMBER", f"sleep {number} >/dev/null 2>&1"), env=sent)
    assert (done.stdout, done.exit_status) == ("1\n", 0)
    hands.until(lambda: len(_sleepers(number)) == 3)


def test_a_session_that_answered_stays_after_its_client(make, rung):
    (node,) = make(rung).nodes
    number = a_number()
    _stay(node, number)
    assert hands.said(node, "echo alive") == "alive"
    assert len(_sleepers(number)) == 3


def test_a_command_that_was_to_stay_and_ended_first_is_an_ordinary_one(make, rung):
    (node,) = make(rung).nodes
    for _ in range(10):
        done = hands.run(node, "echo out; echo err >&2; exit 77", env={"COXSWAIN_DETACH": "1"})
        assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 77)


def test_a_session_that_has_not_answered_ends_with_its_client(make, rung):
    (node,) = make(rung).nodes
    number = a_number()

    async def go():
        connection = await hands.connect(node)
        await connection.create_process(f"sleep {number}", env={"COXSWAIN_DETACH": "1"})
        hands.until(lambda: _sleepers(number))
        connection.abort()

    asyncio.run(go())
    hands.until(lambda: not _sleepers(number))


def test_a_run_is_swept_before_the_command_that_asks_for_it(make, rung):
    (node,) = make(rung).nodes
    one, two = a_number(), a_number() + "1"
    _stay(node, one, "run-1")
    _stay(node, two, "run-2")
    sweep = {"COXSWAIN_SWEEP": "run-1", "COXSWAIN_RUN": "run-1"}
    assert hands.run(node, "echo $COXSWAIN_SWEPT", env=sweep).stdout == "1\n"
    assert (len(_sleepers(one)), len(_sleepers(two))) == (0, 3)
    assert hands.run(node, "echo $COXSWAIN_SWEPT", env={"COXSWAIN_SWEEP": "run-3"}).stdout == "0\n"
    assert hands.run(node, "echo $COXSWAIN_SWEPT", env={"COXSWAIN_SWEEP_STAYING": "1"}).stdout == "1\n"
    assert not _sleepers(two)


def test_the_portal_sweeps_a_node_of_whichever_kind(make, rung):
    (node,) = make(rung).nodes
    one, two = a_number(), a_number() + "1"
    _stay(node, one, "run-1")
    _stay(node, two, "run-2")
    where = [hands.host(node)]
    counts = [int(answer.text) for answer in detached.sweep(where, "run-1") + detached.sweep(where, "run-1")]
    assert (counts[0] > 0, counts[1]) == (True, 0)
    assert (len(_sleepers(one)), len(_sleepers(two))) == (0, 3)


def test_what_others_than_the_portal_started_is_swept_whatever_they_call_it(make, rung):
    (node,) = make(rung).nodes
    number = a_number()

    async def go():
        async with hands.connect(node, who="cluster") as theirs, hands.connect(node) as ours:
            sent = {"COXSWAIN_DETACH": "1", "COXSWAIN_RUN": "another", "COXSWAIN_KEY": "0"}
            await theirs.run(f"exec >/dev/null 2>&1; sleep {number}", env=sent)
            await theirs.create_process(f"sleep {number}", env={"COXSWAIN_KEY": "0"})
            hands.until(lambda: len(_sleepers(number)) >= 2)
            waits = await ours.create_process("read line; echo did $line")
            sweep = {"COXSWAIN_SWEEP": "run-1", "COXSWAIN_SWEEP_OTHERS": "1"}
            swept = await ours.run("echo $COXSWAIN_SWEPT", env=sweep)
            left = _sleepers(number)
            waits.stdin.write("it\n")
            return swept.stdout, left, (await waits.wait()).stdout

    assert asyncio.run(go()) == ("2\n", [], "did it\n")


def test_what_was_started_ahead_and_waits_is_not_swept(make, rung):
    (node,) = make(rung).nodes

    async def go():
        async with hands.connect(node) as connection:
            waits = await connection.create_process("read line; echo did $line", env={"COXSWAIN_DETACH": "1"})
            swept = await connection.run("echo $COXSWAIN_SWEPT", env={"COXSWAIN_SWEEP_STAYING": "1"})
            waits.stdin.write("it\n")
            return swept.stdout, (await waits.wait()).stdout

    assert asyncio.run(go()) == ("0\n", "did it\n")


def test_without_a_sweep_nobody_is_told_of_one(make, rung):
    (node,) = make(rung).nodes
    assert hands.run(node, "echo -$COXSWAIN_SWEPT").stdout == "-\n"


# -- MPI


@pytest.fixture(scope="module")
def mpi():
    """A folder with the mpich and mpi4py of this environment: nodes do not see the environment itself."""
    mpiexec = Path(sys.prefix, "bin", "mpiexec.hydra")
    packages = Path(sysconfig.get_paths()["platlib"])
    if not mpiexec.exists() or not (packages / "mpi4py").exists():
        pytest.skip("the packages mpich and mpi4py are not installed beside pytest")
    with tempfile.TemporaryDirectory(prefix="mpi-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "bin").mkdir()
        (folder / "lib").mkdir()
        for program in ("mpiexec.hydra", "hydra_pmi_proxy"):
            shutil.copy(Path(sys.prefix, "bin", program), folder / "bin")
        for library in Path(sys.prefix, "lib").glob("lib*.so*"):
            shutil.copy(library, folder / "lib", follow_symlinks=False)
        shutil.copytree(Path(sys.prefix, "lib", "mpich"), folder / "lib" / "mpich", symlinks=True)
        shutil.copytree(packages / "mpi4py", folder / "lib" / "python" / "site-packages" / "mpi4py")
        yield folder


@pytest.mark.parametrize("client", ["openssh", "asyncssh"])
def test_mpiexec_by_a_hostfile_of_names(local, rung, client, monkeypatch, mpi):
    if client == "asyncssh":
        monkeypatch.setattr(shims.shutil, "which", lambda *_, **__: None)
    elif not shims.shutil.which("ssh"):
        pytest.skip("there is no OpenSSH client")
    cluster = Cluster(local(rung, shown=[str(mpi)]), 3)
    hands.introduce(cluster.nodes, 2)
    out = hands.said(cluster.nodes[0], f"{mpi}/bin/mpiexec.hydra -n 6 -f ~/hostfile hostname")
    assert sorted(out.split()) == [f"demo-{rank}" for rank in range(3) for _ in range(2)]


def test_allreduce_over_three_nodes(make, rung, mpi):
    cluster = make(rung, 3, shown=[str(mpi)])
    hands.introduce(cluster.nodes, 1)
    # one write a line: print() makes two, and mpiexec may put another rank's between them
    program = (
        "import os; from mpi4py import MPI; c = MPI.COMM_WORLD; "
        "os.write(1, b'sum %d %d\\n' % (c.allreduce(c.rank), c.size))"
    )
    found = f"export PYTHONPATH={mpi}/lib/python/site-packages:$PYTHONPATH MPI4PY_LIBMPI={mpi}/lib/libmpi.so.12"
    run = f'{mpi}/bin/mpiexec.hydra -n 3 -f ~/hostfile {shims.base_python()} -c "{program}"'
    out = hands.said(cluster.nodes[0], f"{found}; {run}")
    assert out.splitlines() == ["sum 3 3"] * 3


# -- living and dying


STARTER = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from tests.clouds import hands
from portal.clouds import NodesSpec, Tags
from portal.clouds.local import LocalCloud
import json
order = json.loads(sys.argv[2])
cloud = LocalCloud(Path(order["root"]), rung=order["rung"])
tags = Tags(*order["tags"])
spec = hands.spec(tags, 2)
cloud.ensure_nodes(spec)
print("made", flush=True)
time.sleep(60)
"""


def _starter(cloud, where, rung):
    order = json.dumps(
        {
            "root": str(cloud.root),
            "rung": rung,
            "tags": [where.portal, where.organization, where.workspace, where.subject],
        }
    )
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(REPOSITORY), order],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_nodes_survive_who_made_them(local, rung):
    cloud = local(rung)
    _, where = hands.deploy(cloud)
    worker = _starter(cloud, where, rung)
    assert worker.stdout.readline() == "made\n"
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    nodes = hands.up(cloud, where, 2)
    assert all(node.running for node in nodes)


def test_two_workers_at_once_make_each_node_once(local, rung):
    cloud = local(rung)
    _, where = hands.deploy(cloud)
    workers = [_starter(cloud, where, rung) for _ in range(3)]
    for worker in workers:
        assert worker.stdout.readline() == "made\n"
        worker.kill()
        worker.wait()
        worker.stdout.close()
    hands.up(cloud, where, 2)
    folder = cloud._workspace(where).cluster(where.subject)
    each = {"namespaces": 4, "landlock": 3, "plain": 3}[rung]

    def machinery():
        return len(folder.processes().machinery)

    hands.until(lambda: machinery() == 2 * each)


@pytest.mark.parametrize("victim", ["keeper", "first"])
def test_a_node_dies_as_a_whole(make, rung, victim):
    cluster = make(rung, 2)
    number = a_number()
    _stay(cluster.nodes[0], number)
    other = cluster.state(1)
    getattr(cluster.state(0), victim).send(signal.SIGKILL)
    hands.until(lambda: not cluster.cloud.nodes(cluster.tags)[0].running)
    cluster.cloud.ensure_nodes(cluster.spec)  # what nobody looks after any more is ended before the node starts again
    hands.up(cluster.cloud, cluster.tags, 2)
    hands.until(lambda: not _sleepers(number))
    assert cluster.state(1) == other


def _sleepers(number):
    """The processes of this whole computer that sleep so long."""
    found = []
    for pid in processes.all_processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == f"sleep\0{number}\0".encode():
                found.append(pid)
    return found


def test_power_off_and_on(make, rung):
    cluster = make(rung, 2)
    hands.said(cluster.nodes[0], f"echo kept > ~/file; echo shared > '{cluster.nodes[0].shared}/file'")
    hands.said(cluster.nodes[1], "(trap '' TERM HUP; sleep 1000) </dev/null >/dev/null 2>&1 & disown")
    begin = time.monotonic()
    cluster.cloud.power_off()
    assert time.monotonic() - begin < 20
    assert not cluster.folder.processes()
    assert [node.running for node in cluster.cloud.nodes(cluster.tags)] == [False, False]
    cluster.cloud.power_on()
    nodes = hands.up(cluster.cloud, cluster.tags, 2)
    assert hands.said(nodes[0], f"cat ~/file '{nodes[0].shared}/file'").split() == ["kept", "shared"]
    before = [cluster.state(rank) for rank in range(2)]
    cluster.cloud.power_on()
    assert [cluster.state(rank) for rank in range(2)] == before


def test_what_is_stopped_keeps_its_disks_and_is_not_started_with_the_computer(make, rung):
    cluster = make(rung, 2)
    hands.said(cluster.nodes[0], "echo kept > ~/file")
    number = a_number()
    _stay(cluster.nodes[1], number)
    begin = time.monotonic()
    hands.ask(cluster.cloud.stop_nodes, cluster.tags)
    assert time.monotonic() - begin < 20
    assert not cluster.folder.processes()
    assert not _sleepers(number)
    assert cluster.cloud.power_on() == []
    assert not cluster.folder.processes()
    assert all(node.switched_off for node in cluster.cloud.nodes(cluster.tags))
    hands.ask(cluster.cloud.ensure_nodes, cluster.spec)
    nodes = hands.up(cluster.cloud, cluster.tags, 2)
    assert hands.said(nodes[0], "cat ~/file; hostname").split() == ["kept", "demo-0"]


def test_what_does_not_stop_in_time_is_ended(make, monkeypatch):
    cluster = make("namespaces", 2)
    monkeypatch.setattr(local_module, "_GRACE", 0.5)
    for rank in range(2):
        cluster.state(rank).first.send(signal.SIGSTOP)
    hands.ask(cluster.cloud.stop_nodes, cluster.tags)
    assert not cluster.folder.processes()
    assert [node.state for node in cluster.cloud.nodes(cluster.tags)] == ["stopped"] * 2


def test_nodes_that_run_learn_the_names_of_those_that_come_later(make):
    cluster = make("namespaces", 1)
    assert hands.run(cluster.nodes[0], "getent hosts demo-2").exit_status
    before = hands.said(cluster.nodes[0], "echo $no_proxy").split(",")
    hands.ask(cluster.cloud.ensure_nodes, hands.spec(cluster.tags, 3))
    nodes = hands.up(cluster.cloud, cluster.tags, 3)
    for node in nodes:
        found = hands.said(node, "getent hosts demo-0; getent hosts demo-2").split()
        assert found == [nodes[0].address, "demo-0", nodes[2].address, "demo-2"]
        # What has begun before they came reaches them as well.
        assert {"demo-0", "demo-2", nodes[2].address} <= {*before} & {*hands.said(node, "echo $no_proxy").split(",")}
    assert hands.run(nodes[0], "echo >> /etc/hosts").exit_status


def test_a_removal_of_one_node_that_was_interrupted_is_finished(make, monkeypatch):
    cluster = make("namespaces", 2)
    node = cluster.folder.node(1)
    node.going.touch()
    cluster.state(1).first.send(signal.SIGKILL)
    hands.until(lambda: not node.taken)
    cluster.cloud.power_on()
    assert not node.taken, "a node that is being removed was started"
    hands.ask(cluster.cloud.delete_nodes, cluster.tags, [1])
    assert [one.rank for one in cluster.cloud.nodes(cluster.tags)] == [0]
    assert not list(cluster.folder.path.glob(".removed-*"))


def test_a_cluster_stays_what_it_was_made_as(make):
    """Its files name the places that its nodes had, so another rung for new clusters must not reach it."""
    cluster = make("namespaces")
    cluster.cloud.power_off()
    later = local_module.LocalCloud(cluster.cloud.root, hidden=cluster.cloud.hidden, rung="plain")
    assert later.power_on() == []
    (node,) = hands.up(later, cluster.tags, 1)
    assert (node.shared, cluster.state(0).rung) == (cluster.nodes[0].shared, "namespaces")


def test_a_cluster_that_cannot_start_keeps_no_other_from_starting(make, monkeypatch):
    one, two = make("plain"), make("plain")
    one.cloud.power_off()
    start = local_module.LocalCloud._start

    def refuse(self, folder, record, ranks):
        if record.tags.subject == one.tags.subject:
            raise local_module.Refused("This computer grants no namespaces for nodes.")
        start(self, folder, record, ranks)

    monkeypatch.setattr(local_module.LocalCloud, "_start", refuse)
    assert [error.message for error in one.cloud.power_on()] == ["This computer grants no namespaces for nodes."]
    hands.up(two.cloud, two.tags, 1)


def test_a_deletion_that_was_interrupted_is_finished(make, monkeypatch):
    cluster = make("namespaces", 2)

    class DiedError(BaseException):
        pass

    def die(_):
        raise DiedError

    monkeypatch.setattr(local_module, "_remove", die)
    with pytest.raises(DiedError):
        cluster.cloud.delete_nodes(cluster.tags)
    monkeypatch.undo()
    assert cluster.cloud.leftovers(cluster.tags)
    cluster.cloud.power_on()
    assert not cluster.folder.processes(), "a cluster that is being deleted was started"
    cluster.cloud.delete_nodes(cluster.tags)
    assert cluster.cloud.leftovers(cluster.tags) == []


def test_homes_that_cannot_be_written_can_be_deleted(make):
    cluster = make("namespaces")
    hands.said(cluster.nodes[0], "mkdir -p a/b && touch a/b/c && chmod 500 a/b && chmod 0 a")
    cluster.cloud.delete_nodes(cluster.tags)
    assert cluster.cloud.leftovers(cluster.tags) == []


def test_a_filesystem_in_use_is_not_deleted(make):
    cluster = make("namespaces")
    with pytest.raises(Passing, match="in use"):
        cluster.cloud.delete_filesystem(cluster.workspace)
    assert cluster.folder.shared.is_dir()


# -- addresses


def test_two_portals_side_by_side_have_addresses_of_their_own(local):
    one, two = (Cluster(local("plain", name), 2) for name in ("one", "two"))
    assert not {node.address for node in one.nodes} & {node.address for node in two.nodes}


def test_an_address_that_somebody_took_meanwhile_is_left_to_him(make):
    cluster = make("plain", 2)
    old = [node.address for node in cluster.nodes]
    cluster.cloud.power_off()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((old[1], cluster.nodes[1].port))
        other.listen()
        cluster.cloud.power_on()
        nodes = hands.up(cluster.cloud, cluster.tags, 2)
    assert not {node.address for node in nodes} & set(old)


# -- refusing


@pytest.mark.parametrize(
    ("change", "words"), [("name", "small letters"), ("nodes", "1 to 64 nodes"), ("ids", "id may have")]
)
def test_what_cannot_be_is_refused(local, change, words):
    cloud = local("plain")
    _, where = hands.deploy(cloud)
    spec = {
        "name": lambda: hands.spec(where, 1, name="../x"),
        "nodes": lambda: hands.spec(where, 65),
        "ids": lambda: hands.spec(hands.tags("../x", "y"), 1),
    }[change]()
    with pytest.raises(Refused, match=words):
        cloud.ensure_nodes(spec)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, Refused, "disk of this computer is full"),
        (errno.EACCES, Refused, "may not"),
        (errno.EMFILE, Passing, "Too many files"),
        (errno.EIO, Passing, "could not"),
    ],
)
def test_what_the_machine_says_leaves_as_a_sentence(local, monkeypatch, number, kind, words):
    cloud = local("plain")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local_module, "write_atomically", fail)
    with pytest.raises(kind, match=words) as caught:
        cloud.ensure_network(hands.site(hands.tags()))
    assert os.strerror(number) in caught.value.evidence


def test_without_namespaces_nodes_are_plain_and_a_forced_rung_is_refused(local, monkeypatch):
    cloud = local("plain")
    monkeypatch.setenv("PORTAL_LOCAL_RUNG", "nonsense")
    with pytest.raises(Refused, match="nonsense"):
        LocalAccount(LocalCloud(cloud.root)).check()
    monkeypatch.setenv("PORTAL_LOCAL_RUNG", "plain")
    assert "simulated" in LocalAccount(LocalCloud(cloud.root)).check().detail


def test_elsewhere_than_on_linux_it_says_so(local, monkeypatch):
    cloud = local("plain")
    monkeypatch.setattr(local_module.sys, "platform", "darwin")
    with pytest.raises(Refused, match="need Linux"):
        LocalAccount(cloud).check()


# -- limits


def test_a_node_that_takes_too_much_memory_is_the_one_that_pays(local, monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: (256 << 20) * len(os.sched_getaffinity(0)))
    cluster = Cluster(local("namespaces"), 1)
    if not any("memory" in group for group in cluster.state(0).groups):
        pytest.skip(f"this computer gives no memory group: {cluster.folder.node(0).log.read_text()}")
    done = hands.run(cluster.nodes[0], "python3 -c 'b = bytearray(600 << 20)'")
    assert done.exit_status != 0
    assert hands.said(cluster.nodes[0], "echo alive") == "alive"
    groups = [Path(group) for group in cluster.state(0).groups]
    cluster.cloud.delete_nodes(cluster.tags)
    assert not any(group.exists() for group in groups)


def test_the_portal_has_the_processors_before_nodes(make, rung):
    node = make(rung).nodes[0]
    assert int(hands.said(node, "nice")) == min(19, os.nice(0) + 5)


def test_the_killer_takes_nodes_before_the_portal(make, rung):
    cluster = make(rung)
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(hands.said(cluster.nodes[0], "sleep 0.05; cat /proc/self/oom_score_adj")) > own
    assert all(
        int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) > own
        for process in cluster.folder.processes().machinery
    )


def test_a_cluster_whose_people_went_very_deep_can_be_deleted(make):
    made = make("namespaces")
    (node,) = made.nodes
    deeper = "import os; os.mkdir('d'); os.chdir('d'); [(os.mkdir('d'), os.chdir('d')) for _ in range(3000)]"
    hands.said(node, f'python3 -c "{deeper}; os.chmod(chr(46), 0)"')
    made.cloud.delete_nodes(made.tags)
    assert made.cloud.leftovers(made.tags) == []


@pytest.fixture
def neighbours(local, rung, client, monkeypatch):
    """Three nodes that know each other as the portal's plans introduce them."""
    if client == "ours":
        which = shutil.which
        monkeypatch.setattr(shims.shutil, "which", lambda name, **more: None if name == "ssh" else which(name, **more))
    cluster = Cluster(local(rung), 3)
    hands.introduce(cluster.nodes, 1)
    return cluster.nodes


@pytest.mark.parametrize("client", ["openssh", "ours"])
def test_a_person_on_a_node_goes_to_the_next_by_its_name_and_their_own_ssh_is_theirs(neighbours, client):
    if client == "openssh" and not shutil.which("ssh"):
        pytest.skip("there is no OpenSSH")
    first, _, third = neighbours
    assert hands.said(first, "ssh demo-1 ssh demo-2 hostname") == "demo-2"
    assert hands.said(first, "ls -A .ssh 2>/dev/null | wc -l") == "0"
    config = f"Host elsewhere demo-1\n  HostName {third.private_address}\n  Port {third.port}\n"
    for node in neighbours:
        known = f"[{third.private_address}]:{third.port} {hands.public('host 2')}"
        hands.said(node, f"mkdir -p -m 700 .ssh; echo '{known}' > .ssh/known_hosts")
        own = f'{config}  UserKnownHostsFile "{node.home}/.ssh/known_hosts"'
        hands.said(node, f"echo '{own}' > .ssh/config")
    key = f"-i '{first.home}/.coxswain/cluster'"
    assert hands.said(first, f"ssh {key} elsewhere hostname") == "demo-2", "their own words count"
    assert hands.said(first, "ssh demo-1 hostname") == "demo-1", "and not for the names of the cluster"


def test_other_programs_that_use_ssh_find_the_way_too(local):
    """They ask the system for it, and not the PATH. Without namespaces the system is this computer."""
    if not shutil.which("scp"):
        pytest.skip("there is no OpenSSH")
    nodes = Cluster(local("namespaces"), 2).nodes
    hands.introduce(nodes, 1)
    hands.said(nodes[0], "echo told > a; /usr/bin/scp -q a demo-1:b")
    assert hands.said(nodes[1], "cat b") == "told"
