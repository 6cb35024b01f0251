"""How busy nodes are: what they count, what is believed of that, and how it is shown."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from unittest.mock import MagicMock

import pytest
import redis

from clusters import charts, samples, watch
from clusters.models import Cluster, EngineVersion, Node
from clusters.samples import Sample, Samples
from portal import ssh
from portal.clouds import CloudNode, NodeState
from tests.web import words


def a_node(pk=7, cores=2):
    return Node(pk=pk, rank=0, hostname="tide-0", cluster=Cluster(cores_per_node=cores, node_count=1))


@pytest.fixture
def clock(monkeypatch):
    """Our own clock, moved by hand."""
    at = [1000.0]
    monkeypatch.setattr(samples.time, "monotonic", lambda: at[0])
    return at


@pytest.fixture
def sampled(clock):
    """The sample that two answers of a node make, so many seconds apart."""

    def sampled(first, second, *, seconds=10.0, cores=2):
        taken = Samples()
        taken.take(a_node(cores=cores), first)
        clock[0] += seconds
        taken.take(a_node(cores=cores), second)
        return taken._new.get(7)

    return sampled


def test_a_machine_says_what_part_of_its_cores_was_busy(sampled):
    sample = sampled(b"1000 8000 2097152 8388608 0 0\n", b"1900 10000 3145728 8388608 10240 1048576\n")
    assert (sample.cpu, sample.used, sample.total) == (pytest.approx(0.45), 3072, 8192)
    assert (sample.received, sample.sent) == (1, 102)


def test_a_node_on_a_kernel_of_others_says_how_long_its_processes_were_busy(sampled):
    sample = sampled(b"1000 - 1024 - - -\n", b"1500 - 2048 - - -\n")
    assert sample.cpu == pytest.approx(0.25), "five seconds of two cores in ten seconds"
    assert (sample.used, sample.total, sample.received, sample.sent) == (2, None, None, None)


@pytest.mark.parametrize(
    "said",
    [
        b"", b"\n", b"1 2 3 4 5\n", b"1 2 3 4 5 6", b"1 2 3 4 5 6\n7", b"-1 2 3 4 5 6\n", b"1e3 2 3 4 5 6\n",
        b"1 2 3 4 5 " + b"6" * 20 + b"\n", "1 2 3 4 5 ٦\n".encode(), b"\xff\xfe 2 3 4 5 6\n", b"1 2 - 4 5 6\n",
        b"<script> 2 3 4 5 6\n", b"1 2 3 4 5 6 " + b"x" * 4000,
    ],
)  # fmt: skip
def test_what_is_no_line_of_numbers_is_no_sample(sampled, said):
    good = b"1000 8000 1024 2048 0 0\n"
    assert sampled(good, said) is None
    assert sampled(said, good) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"5000 8000 1 1 9 9\n", b"10 9000 1 1 0 0\n"),
        (b"0 0 1 1 0 0\n", b"9999999999999999999 5 9999999999999999999 1 9999999999999999999 0\n"),
        (b"0 10 1 1 0 0\n", b"9999999999999999999 10 1 1 0 0\n"),
        (b"0 - 1 1 - -\n", b"9999999999999999999 - 9999999999999999999 9999999999999999999 - -\n"),
    ],
)
def test_whatever_a_node_claims_stays_within_what_can_be(sampled, first, second):
    sample = sampled(first, second)
    assert 0 <= sample.cpu <= 1
    assert (sample.received or 0) >= 0
    again = Sample.unpacked(sample.packed)
    assert len(sample.packed) == 22
    assert again.used <= 2**32 - 2
    assert charts.row(a_node(), [again], now=again.at, seconds=600, period="the last 10 minutes").memory.now


def test_a_sample_is_kept_as_it_was():
    for sample in (Sample(1.8e9, 0.123, 5, None, None, None), Sample(1.8e9, 1.0, 5, 6, 0, 7)):
        assert Sample.unpacked(sample.packed) == sample


def test_a_node_is_asked_for_its_counts_with_every_second_ping(clock):
    asked = Samples()
    said = []
    for _ in range(4):
        said.append(asked.command(a_node()) is samples.COUNT)
        clock[0] += 5
    assert said == [True, False, True, False]


def test_what_was_counted_before_a_long_silence_makes_no_sample(sampled):
    assert sampled(b"1 2 3 4 5 6\n", b"1 3 3 4 5 6\n", seconds=samples.KEPT + 1) is None
    assert sampled(b"1 2 3 4 5 6\n", b"1 3 3 4 5 6\n", seconds=0.1) is None, "nor does a moment"


def test_this_machine_says_its_counts_in_the_words_that_are_read():
    def ask(**environment):
        done = subprocess.run(["sh", "-c", samples.COUNT.line], capture_output=True, env=environment, timeout=20)
        guests, _, counts = done.stdout.partition(b"\n")
        assert (done.returncode, done.stderr) == (0, b"")
        return guests, counts

    guests, counts = ask()
    assert guests == b""
    assert samples._Counts.of(counts).total > 100_000
    assert ask(COXSWAIN_COUNTS="1 - 2 3 - -", COXSWAIN_GUESTS="4") == (b"4", b"1 - 2 3 - -\n")


# Kept


class Kept:
    """Lists as Redis has them."""

    def __init__(self):
        self.lists, self.lives, self.answers = {}, {}, []

    def pipeline(self, transaction):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def rpush(self, key, value):
        self.lists.setdefault(key, []).append(value)

    def ltrim(self, key, first, last):
        assert last == -1
        self.lists[key] = self.lists[key][first:]

    def expire(self, key, seconds):
        self.lives[key] = seconds

    def lrange(self, key, first, last):
        self.answers.append(self.lists.get(key, [])[first:])

    def execute(self):
        answers, self.answers = self.answers, []
        return answers


@pytest.fixture
def kept(monkeypatch):
    found = Kept()
    monkeypatch.setattr(samples, "_redis", lambda: found)
    return found


def test_an_hour_is_kept_and_no_more(kept, clock, monkeypatch):
    taken = Samples()
    began = 1.8e9
    for n in range(500):
        monkeypatch.setattr(samples.time, "time", lambda n=n: began + n * 10)
        clock[0] += 10
        taken.take(a_node(), f"{n * 100} - 1024 - - -\n".encode())
        taken.keep()
    ((key, found),) = kept.lists.items()
    assert len(found) == 360
    assert kept.lives[key] == 3600, "and nothing of a node that is gone"
    assert [len(samples.of([7], seconds)[7]) for seconds in (600, 3600)] == [61, 360]
    assert samples.of([7, 8], 600)[8] == []
    assert samples.of([], 600) == {}


def test_a_node_of_which_nothing_is_asked_any_more_is_forgotten(kept, clock):
    taken = Samples()
    taken.command(a_node())
    taken.take(a_node(), b"1 2 3 4 5 6\n")
    clock[0] += 120
    taken.keep()
    assert (taken._asked, taken._last) == ({}, {})


def test_without_redis_nothing_is_kept_and_nothing_fails(monkeypatch, clock):
    def away():
        raise redis.ConnectionError("away")

    monkeypatch.setattr(samples, "_redis", away)
    taken = Samples()
    for n in range(2):
        taken.take(a_node(), f"{n} - 1024 - - -\n".encode())
        clock[0] += 10
    taken.keep()
    assert samples.of([7], 600) == {}


# Shown


def some(*values, at=1000.0, **fields):
    return [Sample(at + 10 * n, value, **{"used": 512, "total": 1024, "received": 1, "sent": 2, **fields})
            for n, value in enumerate(values)]  # fmt: skip


def row(found, *, now=None, seconds=600):
    return charts.row(
        a_node(), found, now=found[-1].at if now is None else now, seconds=seconds, period="the last 10 minutes"
    )


def points(line):
    return [tuple(map(float, point.split(","))) for point in line.split(" ")]


def test_a_chart_says_in_words_what_it_draws():
    shown = row(some(0.1, 0.9, 0.76))
    assert (shown.cpu.now, shown.memory.now, shown.network.now) == (
        "76%",
        "512 MiB of 1.0 GiB",
        "1 KiB/s in, 2 KiB/s out",
    )
    assert shown.cpu.label == "CPU of tide-0: 76% now, 10% to 90% in the last 10 minutes"
    (line,) = shown.cpu.lines
    heights = [y for _, y in points(line)]
    assert heights[1] < heights[2] < heights[0], "more is higher"


def test_where_samples_are_missing_there_is_no_line():
    shown = row([*some(0.1, 0.2), *some(0.3, 0.4, at=1200.0)])
    assert len(shown.cpu.lines) == 2
    assert row(some(0.5)).cpu.lines == (), "one point is no line"


def test_a_sample_of_a_while_ago_says_nothing_of_now():
    shown = row(some(0.1, 0.2), now=1100.0)
    assert (shown.cpu.now, shown.cpu.label) == ("", "CPU of tide-0: not known now, 10% to 20% in the last 10 minutes")
    assert shown.cpu.lines


def test_nothing_known_is_no_chart():
    shown = charts.row(a_node(), [], now=0, seconds=600, period="")
    assert (shown.cpu, shown.memory, shown.network) == (None, None, None)
    assert row(some(0.1, received=None, sent=None)).network is None


def test_memory_that_is_nearly_full_looks_so():
    assert row(some(0.1, used=1000)).memory.is_high
    assert not row(some(0.1, used=500)).memory.is_high
    assert not row(some(1.0)).cpu.is_high, "cores are there to be used"


def test_an_hour_is_drawn_with_as_many_points_as_ten_minutes():
    shown = row(some(*[n % 10 / 10 for n in range(360)]), seconds=3600)
    (line,) = shown.cpu.lines
    assert 55 <= len(points(line)) <= 61
    assert all(before[0] < after[0] for before, after in pairwise(points(line)))
    assert points(line)[-1][0] == charts.WIDTH


@pytest.fixture
def tide(lab, alice, rings):
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=2, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"), created_by=alice, zone="z-1", role="reader", spot=True,
        extra_tags={"cost": "ocean"},
    )  # fmt: skip
    for rank in range(2):
        Node.objects.create(
            cluster=cluster, rank=rank, hostname=f"tide-{rank}", host_public="ssh-ed25519 AAAA", state="answers"
        )
    return cluster


@pytest.mark.django_db
def test_a_clusters_page_draws_its_nodes_and_is_there_without_redis(client, tide, vera, kept, monkeypatch):
    client.force_login(vera)
    page = words(client.get(f"/clusters/{tide.uuid}/"))
    assert '<svg class="spark' not in page
    first = tide.nodes.get(rank=0)
    kept.lists[samples._key(first.pk)] = [
        one.packed for one in some(0.2, 0.4, at=time.time() - 15, received=None, sent=None)
    ]
    page = words(client.get(f"/clusters/{tide.uuid}/"))
    assert 'aria-label="CPU of tide-0: 40% now, 20% to 40% in the last 10 minutes"' in page
    assert page.count('<svg class="spark') == 2, "of the other node, and of the network, nothing is known"
    assert "The network is not counted here" in page
    kept.lists[samples._key(first.pk)] = [one.packed for one in some(*[0.5] * 30, at=time.time() - 295)]
    page = words(client.get(f"/clusters/{tide.uuid}/?last=hour"))
    assert page.count("in the last hour") == 3
    assert "The network is not counted" not in page
    assert 'style="' not in page
    monkeypatch.setattr(samples, "_redis", lambda: (_ for _ in ()).throw(redis.TimeoutError()))
    assert "tide-0" in words(client.get(f"/clusters/{tide.uuid}/"))


@pytest.mark.django_db
def test_nodes_are_fetched_alone_and_cost_little(client, tide, alice, kept, django_assert_max_num_queries):
    client.force_login(alice)
    client.get(f"/clusters/{tide.uuid}/")
    with django_assert_max_num_queries(6):
        part = client.get(f"/clusters/{tide.uuid}/", headers={"HX-Request": "true", "HX-Target": "cluster-nodes"})
    assert words(part).startswith('<section class="panel" id="cluster-nodes"')


@pytest.mark.django_db
def test_a_clusters_page_says_what_was_chosen_for_it(client, tide, alice):
    client.force_login(alice)
    page = words(client.get(f"/clusters/{tide.uuid}/"))
    for what in ("z-1", "reader", ", spot nodes", "ocean"):
        assert what in page
    Cluster.objects.update(zone="", role="", spot=False, extra_tags={})
    page = words(client.get(f"/clusters/{tide.uuid}/"))
    for what in ("<dt>Zone</dt>", "<dt>Instance role</dt>", ", spot nodes", "<dt>Tags</dt>"):
        assert what not in page


# What a node that does not answer is


@pytest.fixture
def listening(tmp_path):
    """A TCP port and a door at which connections are taken by the kernel, and by nobody else."""
    port, door = socket.socket(), socket.socket(socket.AF_UNIX)
    port.bind(("127.0.0.1", 0))
    door.bind(str(tmp_path / "door"))
    for one in (port, door):
        one.listen(1)
    number = port.getsockname()[1]
    yield (
        ssh.Host("tide-0", "127.0.0.1", number, "u", "k"),
        ssh.Host("tide-0", "", 22, "u", "k", door=str(tmp_path / "door")),
    )
    port.close()
    door.close()


def test_a_knock_tells_what_takes_connections_from_what_refuses_them(listening):
    for host in listening:
        assert asyncio.run(ssh.knock(host)) is True
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    number = free.getsockname()[1]
    free.close()
    assert asyncio.run(ssh.knock(ssh.Host("n", "127.0.0.1", number, "u", "k"))) is False
    assert asyncio.run(ssh.knock(ssh.Host("n", "", 22, "u", "k", door="/no/such/door"))) is False


def test_a_door_whose_queue_is_full_says_nothing(listening):
    _, door = listening
    waiting = []
    while (answer := asyncio.run(ssh.knock(door))) is True:
        waiting.append(ssh.through(door.door))
        assert len(waiting) < 10
    assert answer is None
    for one in waiting:
        one.close()


def listed_as(state):
    return {0: CloudNode("id", 0, "tide-0", state, "10.0.0.1", 22, "10.0.0.1", "u", "/home/u", "/shared")}


LISTED, ELSEWHERE = listed_as(NodeState.RUNNING), listed_as(NodeState.STOPPED)


@pytest.mark.parametrize(
    ("was", "listed", "takes", "state"),
    [
        ("answers", LISTED, True, "frozen"),
        ("answers", LISTED, False, "silent"),
        ("answers", LISTED, None, "silent"),
        ("frozen", LISTED, None, "frozen"),  # its queue is full by now
        ("frozen", LISTED, False, "silent"),
        ("silent", LISTED, True, "frozen"),
        ("answers", None, True, "frozen"),  # the cloud does not say
        ("answers", None, False, "silent"),
        ("answers", {}, True, "gone"),  # whoever takes connections there, it is not the node
        ("frozen", ELSEWHERE, True, "gone"),
    ],
)
def test_a_node_that_does_not_answer_is_frozen_or_unreachable_or_gone(monkeypatch, was, listed, takes, state):
    async def knock(host):
        return takes

    monkeypatch.setattr(ssh, "knock", knock)
    node = Node(pk=1, rank=0, state=was)

    async def go():
        return await watch.NodeWatcher()._state(node, ssh.Host("n", "10.0.0.1", 22, "u", "k"), False, listed)

    assert asyncio.run(go()) == state


@pytest.mark.django_db
@pytest.mark.parametrize(("state", "word"), [("frozen", "FROZEN"), ("silent", "UNREACHABLE"), ("gone", "GONE")])
def test_pages_say_what_is_wrong_with_a_node(client, tide, alice, state, word):
    tide.nodes.filter(rank=1).update(state=state)
    client.force_login(alice)
    page = words(client.get(f"/clusters/{tide.uuid}/"))
    assert f'data-say="tide-1: {word}"' in page
    assert Node.MEANS[state] in page
    assert "DEGRADED" in page


@pytest.fixture
def quick_turns():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_turns")
def test_nodes_may_be_asked_while_samples_are_kept(monkeypatch):
    """Both go on at once in a watch process; a failure there would end the looks at all nodes."""
    monkeypatch.setattr(samples, "_redis", MagicMock)
    found, over, failed = samples.Samples(), threading.Event(), []

    def keep():
        while not over.is_set():
            try:
                found.keep()
            except RuntimeError as error:
                failed.append(error)
                return

    thread = threading.Thread(target=keep)
    thread.start()
    cluster = Cluster(cores_per_node=2)
    for pk in range(20_000):
        found.command(Node(pk=pk, cluster=cluster))
    over.set()
    thread.join(20)
    assert not failed
