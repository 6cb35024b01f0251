"""What people try with pools and computers of own machines, and with addresses that are none of them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from uuid import uuid4

import pytest
from django import forms
from django.urls import reverse

from portal import ssh
from portal.clouds.machines import certificates, standing
from portal.clouds.machines.models import Computer, Pool
from portal.errors import Passing, Refused
from portal.ssh import fingerprint
from workspaces import poolwatch
from workspaces.models import CloudConfig
from workspaces.poolforms import base_folder, place_of


@contextlib.contextmanager
def listening(host="127.0.0.1", says=b""):
    """A server that counts who comes, on a port of this computer."""

    async def count(reader, writer):
        came.append(writer)
        writer.write(says)
        with contextlib.suppress(OSError):
            await writer.drain()

    came: list[asyncio.StreamWriter] = []
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(count, host, 0))
    try:
        yield loop, server.sockets[0].getsockname()[1], came
    finally:
        server.close()
        for writer in came:
            writer.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


OWN = [
    "127.0.0.1", "127.9.9.9:5432", "[::1]:6379", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]:22", "0x7f000001", "0x7f.0x1",
    "127.1", "2130706433", "0.0.0.0", "[::]", "[::ffff:0.0.0.0]", "localhost", "me.localhost", "169.254.169.254",
    "[fe80::1]", "[fe80::1%eth0]", "[::ffff:169.254.169.254]", "224.0.0.1", "[ff02::1]",
]  # fmt: skip


@pytest.mark.parametrize("line", OWN)
def test_no_computer_is_added_at_an_address_of_the_portal_itself(line):
    with pytest.raises(forms.ValidationError):
        place_of(line)


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"])
def test_a_name_that_leads_to_the_portal_itself_is_not_connected_to(monkeypatch, address):
    real = socket.getaddrinfo

    def resolve(host, *rest, **more):
        return real(address if "inner" in str(host) else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with listening() as (loop, port, came):
        host = ssh.Host("inner", "inner.example.org", port, "team", *_key(), certificate="of an authority")
        for request in (ssh.host_key_of("inner.example.org", port), ssh.Connections._open(host)):
            with pytest.raises(Refused) as refused:
                loop.run_until_complete(request)
            assert refused.value.code == "not_allowed"
        assert loop.run_until_complete(ssh.knock(host)) is None
        assert came == []


def _key():
    private, public = ssh.new_key("somebody")
    return private, public


def test_who_runs_the_portal_says_in_which_networks_computers_may_be(monkeypatch, settings):
    settings.MACHINES_NETWORKS = [ipaddress.ip_network("10.1.0.0/16")]
    tried = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, where: tried.append(where))
    for address in ("10.2.0.7", "192.168.0.7", "fd00::7", "127.0.0.1"):
        with pytest.raises(Refused) as refused:
            asyncio.run(ssh.host_key_of(address, 22))
        assert refused.value.code == "not_allowed"
    assert tried == []


def test_what_a_server_that_is_no_ssh_server_says_is_told_to_nobody(settings):
    settings.MACHINES_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    words = b"-ERR password of the inner service is hunter2\r\n" * 3
    with listening(says=words) as (loop, port, _), pytest.raises(Passing) as passing:
        loop.run_until_complete(asyncio.wait_for(ssh.host_key_of("127.0.0.1", port), 30))
    assert "hunter2" not in f"{passing.value.message} {passing.value.evidence}"


FOLDERS = [
    "/", "//", "~", "~team", "srv", "/home", "/home/team", "/home/team/../..", "/srv/./../etc", "/etc/x", "/root/x",
    "/srv/$(id)", "/srv/`id`", "/srv/a b", "/srv/a'b", '/srv/a"b', "/srv/a\nb", "/srv/a;b", "/srv/*", "/srv/é",
    "/tmp/x", "/proc/1/root", "/var/tmp/x", "//etc/x",
]  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_base_folder_is_a_plain_path_of_its_own(folder):
    with pytest.raises(forms.ValidationError):
        base_folder(folder)


def _pool(config, computers=0, port=22, **more):
    pool = Pool(account=config.uuid, name=f"pool-{uuid4().hex[:6]}", user="team", base="/srv/team/coxswain")
    certificates.new_authority(pool)
    pool.save()
    made = [Computer(pool=pool, address="127.0.0.1", port=port + n, **more) for n in range(computers)]
    Computer.objects.bulk_create(made)
    return pool


@pytest.fixture
def own(harbor, alice):
    return CloudConfig.objects.create(organization=harbor, name="Desks", kind="machines", created_by=alice)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rings")
def test_many_computers_that_say_nothing_are_not_all_connected_to_at_once(own, monkeypatch):
    now_open, most = 0, 0

    async def says_nothing(address, port):
        nonlocal now_open, most
        now_open += 1
        most = max(most, now_open)
        await asyncio.sleep(0)
        now_open -= 1
        raise Passing("No SSH server answers.")

    monkeypatch.setattr(ssh, "host_key_of", says_nothing)
    pool = _pool(own, 300)
    asyncio.run(poolwatch._look_for_keys(pool, list(pool.computers.all())))
    assert 0 < most <= 32


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rings")
def test_computers_of_one_pool_that_hang_do_not_hold_up_those_of_another_one(own, monkeypatch):
    watcher = poolwatch.ComputerWatcher()
    known = ssh.new_key("a")[1]
    hanging, well = _pool(own, 100, host_public=known), _pool(own, 2, 5000, host_public=known)

    async def run(host, *words, **more):
        if host.port < 5000:
            await asyncio.sleep(1000)
        return ssh.Answer(0, f"{uuid4()}\n0.5 0.5 0.5 1/1 1\n".encode(), b"")

    monkeypatch.setattr(watcher.connections, "run", run)

    async def go():
        slow = asyncio.create_task(watcher._look(hanging, rows[0]))
        await asyncio.sleep(0)
        await asyncio.wait_for(watcher._look(well, rows[1]), 30)
        slow.cancel()

    rows = [list(pool.computers.select_related("pool")) for pool in (hanging, well)]
    asyncio.run(go())
    assert [one.load for one in well.computers.all()] == [0.5, 0.5]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rings")
@pytest.mark.parametrize("load", ["nan", "inf", "-inf", "1e999", "-1", "1e300"])
def test_a_load_that_is_no_number_is_no_answer(own, monkeypatch, load):
    watcher = poolwatch.ComputerWatcher()
    pool = _pool(own, 1, host_public=ssh.new_key("a")[1], state="ready")

    async def run(host, *words, **more):
        return ssh.Answer(0, f"{uuid4()}\n{load} 0.5 0.5 1/1 1\n".encode(), b"")

    monkeypatch.setattr(watcher.connections, "run", run)
    asyncio.run(watcher._look(pool, list(pool.computers.select_related("pool"))))
    assert pool.computers.get().load is None


@pytest.mark.django_db
@pytest.mark.usefixtures("rings")
def test_exactly_the_key_that_somebody_saw_is_accepted_and_only_by_who_administers(client, own, alice, bob, charlie):
    pinned, seen, other = (ssh.new_key("computer")[1] for _ in range(3))
    computer = _pool(own, 1, host_public=pinned, host_shown=seen, state="refused").computers.get()
    address = reverse("accept-key", args=[computer.uuid])
    words = {"seen": fingerprint(seen), "name": str(computer)}
    for stranger in (bob, charlie):
        client.force_login(stranger)
        assert client.post(address, words).status_code in (403, 404)
    client.force_login(alice)
    assert seen.split()[1][:20] not in client.get(address).content.decode()
    assert fingerprint(seen) in client.get(address).content.decode()
    Computer.objects.update(host_shown=other)
    for late in (words, {**words, "seen": ""}, {**words, "seen": fingerprint(pinned)}, {"seen": fingerprint(other)}):
        client.post(address, late)
        assert Computer.objects.get().host_public == pinned
    client.post(address, {**words, "seen": fingerprint(other)})
    assert (Computer.objects.get().host_public, Computer.objects.get().host_shown) == (other, "")
    client.post(address, {**words, "seen": fingerprint(other)})
    assert Computer.objects.get().host_public == other


@pytest.mark.django_db
@pytest.mark.usefixtures("rings")
def test_what_a_computer_says_is_text_on_each_page_and_its_history_has_an_end(client, own, alice, monkeypatch):
    hurt = "<script>alert(1)</script>"
    line = {"name": hurt, "ok": False, "message": hurt, "advice": hurt}
    pool = _pool(own, 1, host_public=ssh.new_key("a")[1], state="refused", silence=hurt, hostname="<b>n1</b>")
    pool.computers.update(failing=[line], facts={"lines": [line], "system": hurt, "kernel": hurt, "user": hurt})
    computer = pool.computers.get()
    monkeypatch.setattr(standing, "MOST_EVENTS", 10)
    for number in range(30):
        standing.tell(computer, f"{hurt} {number}")
    assert [event.words.split()[-1] for event in computer.events.all()] == [str(n) for n in range(29, 19, -1)]
    client.force_login(alice)
    for name, uuid in (("pool", pool.uuid), ("computer", computer.uuid), ("remove-computer", computer.uuid)):
        page = client.get(reverse(name, args=[uuid])).content.decode()
        assert "<script>alert" not in page
        assert "<b>n1" not in page
        assert "&lt;" in page
