"""A hostile program on a node does not get out. Run as root and as an ordinary user, these are two different tests.

`landlock` keeps files, memory and signals apart; its network and list of processes are this computer's. `plain` keeps
nothing apart and is not tried.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import asyncssh
import pytest

from portal.clouds import Refused
from portal.clouds.local import LocalAccount, LocalCloud, LocalOptions, identity, wayout

from . import hands

ESCAPE = Path(__file__).with_name("escape.py").read_text()
CHECKOUT = Path(__file__).resolve().parents[2]
NOTHING = "0" * 16


@pytest.fixture(params=["namespaces", "landlock"])
def rung(request):
    return request.param


@pytest.fixture
def listener():
    """A service of this computer on loopback, as the portal's own are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def start(cloud, nodes=1, where=None):
    if where is None:
        _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, nodes))
    return hands.up(cloud, where, nodes)


def escape(node, **hints):
    done = hands.run(node, "python3 -", input=ESCAPE, env={"COXSWAIN_HINTS": json.dumps(hints)})
    assert done.exit_status == 0, done.stderr
    return json.loads(done.stdout)


def is_open(said):
    return said.startswith("open")


def test_no_way_out_is_open(local, rung, listener):
    cloud = local(rung)
    (node,) = start(cloud)
    secret = cloud.hidden[1] / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    own = [
        str(secret),
        str(CHECKOUT / "README.md"),
        str(CHECKOUT),
        sys.prefix,
        str(Path.home() / ".ssh"),
        str(cloud.root),
    ]
    found = escape(
        node, port=listener, pid=os.getpid(), paths=[*own, "/etc/shadow", "/home", "/var", "/boot", "/srv", "/mnt"]
    )
    bounding = found["capabilities"].pop(3)
    assert found["capabilities"] == [NOTHING] * 4
    # An ordinary user may not empty this one, and without new privileges it is of no use.
    assert bounding == NOTHING or rung == "landlock"
    assert (found["no new privileges"], found["filter"]) == ("1", "2")
    assert found["descriptors"] == []
    assert not [name for name, said in found["calls"].items() if is_open(said)]
    assert not [name for name, said in found["socket kinds"].items() if is_open(said)]
    assert not [name for name, said in found["kernel files"].items() if is_open(said)]
    assert not is_open(found["terminal"])
    assert not is_open(found["ptrace"])
    assert not is_open(found["oom"])
    assert not [path for path in own if is_open(found["paths"][path])]
    assert not is_open(found["paths"]["/etc/shadow"])
    if rung == "landlock":  # one network and one list of processes for all: the cluster's page says so
        assert not is_open(found["signals"]), "needs Linux 6.12"
        return
    assert found["user outside"][2] == "1"
    outside = int(found["user outside"][1])
    assert outside in identity.numbers() if identity.has_root() else outside == os.getuid()
    assert found["mounts"] == found["writable"] == found["sockets"] == found["setuid"] == []
    assert found["foreign"] == []
    assert {path: said for path, said in found["paths"].items() if is_open(said) and "[]" not in said} == {
        "/var": "open ['tmp']"
    }
    assert not is_open(found["signals"]) or os.getpid() < 20
    assert not is_open(found["host"])
    assert not is_open(found["internet"])
    assert found["abstract"] == []
    assert found["interfaces"] == ["lo"]


def test_no_socket_of_the_portal_is_reached_by_its_path(local, rung):
    """Its queue's, for one: who writes there has the workers do what he likes. Landlock asks nobody who connects."""
    cloud = local(rung)
    (node,) = start(cloud)
    path = cloud.root / "queue.sock"
    os.chdir(cloud.root)  # a path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as queue:
            queue.bind("queue.sock")
            queue.listen()
            for name in (str(path), f"/proc/{os.getpid()}/cwd/queue.sock"):
                code = f"import os, socket; os.chdir('/'); socket.socket(socket.AF_UNIX).connect({name!r}); print('in')"
                assert hands.run(node, f'python3 -c "{code}"').stdout == ""
    finally:
        os.chdir("/")
    pair = "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))"
    assert hands.said(node, f'python3 -c "{pair}"') == "b'x'"


def test_the_way_out_leads_nowhere_near(local, listener):
    """Not to this computer in any spelling, its neighbours on the link, or a cloud's metadata; git may ask for git."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("1.1.1.1", 9))  # sends nothing
            own = one.getsockname()[0]
        except OSError:
            own = "127.0.0.1"
    hosts = (
        *("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]", "2130706433", "0x7f.1", "017700000001", "127.1"),
        *("[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "127.77.1.1", own),
        *("169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "224.0.0.1"),
        *("255.255.255.255", "240.0.0.1", socket.gethostname()),
    )
    tunnels = [f"CONNECT {host}:{listener} HTTP/1.1\r\n\r\n" for host in hosts]
    here = f"http://127.0.0.1:{listener}"
    not_git = ("/", "/admin/", "/x/HEAD/..", "/%2e%2e/HEAD", "/x/git-upload-pack", "/x/git-receive-pack")
    not_git = (*not_git, "/admin/?x=/HEAD", "/admin?/info/refs?service=git-upload-pack")
    pages = [f"GET {here}{path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in not_git]
    end = "HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    pages += [f"POST {here}{path} {end}\r\n" for path in ("/x/HEAD", "/x/git-upload-pack")]
    question = "Content-Type: application/x-git-upload-pack-request"
    pages.append(f"POST {here}/api/exec?x=/git-upload-pack {end}{question}\r\n\r\n")
    pages.append(f"POST {here}/x/git-upload-pack {end}{question}\r\nTransfer-Encoding: chunked\r\n\r\n")
    (node,) = start(local(git_here=True))
    said = escape(node, ask=[*tunnels, *pages])["way out"]
    refused = ("HTTP/1.1 403", "HTTP/1.1 502", "HTTP/1.1 400")
    assert not {one: answer for one, answer in said.items() if not answer.startswith(refused)}
    assert said[tunnels[0]].startswith("HTTP/1.1 403")


def test_git_reaches_this_computers_servers_only_where_the_portal_says_so(local):
    async def answers(ask, **options):
        async def serve(reader, writer):
            got.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            writer.close()

        got = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        portal = f"http://127.0.0.1:{port}" if options.pop("is_portal", False) else ""
        cloud = local(name=str(len(options)) + portal[-5:], portal=portal, **options)
        (node,) = await asyncio.to_thread(start, cloud)
        line = f"GET http://127.0.0.1:{port}{ask} HTTP/1.1\r\nHost: x\r\nX-Own: set 0\r\n\r\n"
        said = (await asyncio.to_thread(escape, node, ask=[line]))["way out"][line]
        server.close()
        return said, got

    said, got = asyncio.run(answers("/r/info/refs?service=git-upload-pack", git_here=True))
    assert said == "HTTP/1.1 200 OK"
    assert b"X-Own" not in got[0]
    assert asyncio.run(answers("/r/info/refs?service=git-upload-pack"))[0].startswith("HTTP/1.1 403")
    assert asyncio.run(answers("/examples/x/info/refs", is_portal=True))[0] == "HTTP/1.1 200 OK"
    assert asyncio.run(answers("/admin/info/refs", is_portal=True, git_here=True))[0].startswith("HTTP/1.1 403")


def test_the_way_out_goes_through_the_proxy_of_the_house(local, monkeypatch):
    async def go():
        async def serve(reader, writer):
            got.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        got = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        monkeypatch.setenv("https_proxy", f"http://who:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}")
        (node,) = await asyncio.to_thread(start, local())
        asked = [f"CONNECT {host} HTTP/1.1\r\n\r\n" for host in ("index.invalid:443", "127.0.0.1:22")]
        said = (await asyncio.to_thread(escape, node, ask=asked))["way out"]
        server.close()
        return [said[one].split()[1] for one in asked], got

    answers, got = asyncio.run(go())
    assert answers == ["200", "403"]
    assert got[0].startswith(b"CONNECT index.invalid:443 HTTP/1.1")
    assert b"Proxy-Authorization: Basic d2hvOnNlY3JldA==" in got[0]


def test_in_the_computers_own_network_the_page_says_what_is_reached(local, listener):
    (node,) = start(local(network="host"))
    assert "reach this computer's services" in node.note
    found = escape(node, port=listener)
    assert is_open(found["host"])
    assert found["mounts"] == found["foreign"] == []


@pytest.mark.parametrize(
    ("address", "neighbours", "leads"),
    [
        ("8.8.8.8", False, True),
        ("10.0.0.9", True, True),
        ("10.0.0.9", False, False),
        ("fd12::1", False, False),
        ("::ffff:10.0.0.9", False, False),
        ("::ffff:8.8.8.8", False, True),
        ("127.9.9.9", True, False),
        ("64:ff9b::a9fe:a9fe", True, False),
        ("2002:a9fe:a9fe::", True, False),
        ("fe80::1%eth0", True, False),
    ],
)
def test_where_the_way_out_leads(address, neighbours, leads):
    assert (not wayout.refusal(address, neighbours=neighbours)) == leads


def test_a_hog_stops_at_its_limits(local):
    (node,) = start(local(processes=200, temporary_mib=64))
    found = escape(node, forks=400, fill=256 << 20)
    assert found["forks"] < 210
    assert all(size <= 64 << 20 for size in found["filled"].values())
    assert hands.said(node, "echo alive") == "alive"


def test_clusters_and_workspaces_side_by_side_see_nothing_of_each_other(local):
    cloud = local()
    workspace, one = hands.deploy(cloud)
    two = hands.tags(workspace.workspace, "second")
    _, three = hands.deploy(cloud)
    nodes = [start(cloud, 1, where)[0] for where in (one, two, three)]
    for node in nodes:
        hands.said(node, f"echo {node.id} > /node/mine; echo {node.id} > /shared/{node.id}")
        hands.said(node, f"echo {node.id} > /tmp/mine; echo {node.id} > /dev/shm/mine")
    seen = [hands.said(node, "cat /node/mine /tmp/mine /dev/shm/mine; ls /shared").split() for node in nodes]
    assert [words[:3] for words in seen] == [[node.id] * 3 for node in nodes]
    assert set(seen[0][3:]) == set(seen[1][3:]) == {nodes[0].id, nodes[1].id}  # one workspace, one filesystem
    assert seen[2][3:] == [nodes[2].id]
    for node in nodes:
        others = [other for other in nodes if other is not node]
        asked = [f"CONNECT {other.private_address}:{other.port} HTTP/1.1\r\n\r\n" for other in others]
        found = escape(node, ask=asked, sockets=[other.door for other in nodes])
        assert all(answer.startswith("HTTP/1.1 403") for answer in found["way out"].values())
        assert not any(is_open(said) for said in found["unix"].values())
        for other in others:
            reach = f"import socket; socket.create_connection(('{other.private_address}', {other.port}), 2)"
            assert hands.run(node, f'python3 -c "{reach}"').exit_status != 0
    if identity.has_root():
        users = [identity.of_workspace(cloud._workspace(where).path) for where in (one, two, three)]
        assert users[0] == users[1] != users[2]


def test_links_do_not_lead_the_portal_astray(local):
    """What the portal deletes and makes writable in a node's folders is in these folders."""
    cloud = local()
    workspace, where = hands.deploy(cloud)
    (node,) = start(cloud, 1, where)
    outside = cloud.hidden[1] / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    outside.chmod(0o500)
    hands.said(
        node, f"ln -s '{outside}' /node/link; ln -s '{outside}' /shared/link; mkdir -p /node/a/b; touch /node/a/b/c"
    )
    hands.said(
        node, f"ln -s '{outside}' /node/a/link; rm -rf /node/.tmp; ln -s '{outside}' /node/.tmp; chmod 0 /node/a/b"
    )
    hands.said(node, "chmod 500 /node/a")
    folder = cloud._workspace(where).cluster(where.subject)
    cloud.power_off()
    assert cloud.power_on() == []
    hands.up(cloud, where, 1)
    identity.open_up(folder.node(0).home)
    cloud.delete_nodes(where)
    cloud.delete_filesystem(workspace)
    cloud.delete_network(workspace)
    assert cloud.leftovers(where) == cloud.leftovers(workspace) == []
    assert (outside.stat().st_mode & 0o777, (outside / "file").read_text()) == (0o500, "kept")
    outside.chmod(0o700)


def test_files_over_sftp_are_those_that_a_session_sees(local, rung):
    cloud = local(rung)
    (node,) = start(cloud)
    secret = cloud.hidden[1] / "secret"
    secret.write_text("hunter2")

    async def read(path):
        async with (
            hands.connect(node) as connection,
            connection.start_sftp_client() as sftp,
            sftp.open(path, "rb") as file,
        ):
            return await file.read(100)

    for path in (secret, CHECKOUT / "README.md", "/proc/1/environ", "/proc/1/mem", "/etc/shadow"):
        with pytest.raises(asyncssh.SFTPError):
            asyncio.run(read(str(path)))


def test_without_a_door_nobody_else_of_this_computer_gets_in(local):
    (node,) = start(local())
    assert Path(node.door).stat().st_mode & 0o777 == 0o600
    with socket.socket() as one, pytest.raises(OSError, match="refused"):
        one.connect((node.address, node.port))


def test_plain_is_not_for_a_portal_that_lets_strangers_in(local):
    cloud = LocalCloud(local("plain").root, rung="plain", options=LocalOptions(strangers=True))
    with pytest.raises(Refused, match="everybody may make an organization"):
        LocalAccount(cloud).check()


def test_a_name_that_changes_its_mind_after_it_was_looked_at_leads_where_it_was_looked_at(monkeypatch):
    asked, opened = [], []

    def answer(host, port, *_, **__):
        asked.append(host)
        address = "203.0.113.7" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def open_it(host, port):
        opened.append(host)
        return None, None

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(wayout, "_open", open_it)
    asyncio.run(wayout._WayOut(wayout.Rules())._connect("rebinding.test", 80, "http"))
    assert (asked, opened) == (["rebinding.test"], ["203.0.113.7"])
    with pytest.raises(wayout.Refusal):
        asyncio.run(wayout._WayOut(wayout.Rules())._connect("rebinding.test", 80, "http"))


@pytest.mark.parametrize(
    ("free_mib", "words"), [(1 << 40, "MiB of this computer's disk are free"), (0, "more files fit on this computer's")]
)
def test_a_full_disk_ends_runs_and_lets_none_begin(local, free_mib, words):
    cloud = local(free_mib=free_mib, free_percent=100)
    if not os.statvfs(cloud.hidden[1]).f_files and not free_mib:
        pytest.skip("this file system has no end of files")
    _, where = hands.deploy(cloud)
    (node,) = start(cloud, 1, where)
    done = hands.run(node, "sleep 1000", env={"COXSWAIN_RUN": "run-1"})
    assert done.exit_signal is not None
    # As the portal starts a run: nothing of what the session was given says which.
    hands.run(node, "exec >&- 2>&-; sleep 1000; touch /shared/not-ended", env={"COXSWAIN_DETACH": "1"})
    assert hands.said(node, "echo alive") == "alive"
    (node,) = hands.until(lambda: [n for n in cloud.nodes(where) if n.refuses])
    assert words in node.refuses
    assert node.note.startswith(node.refuses)
