"""Keeping outputs: no byte is lost, doubled or left behind, whoever does it at once and whoever dies."""

from __future__ import annotations

import threading
from datetime import timedelta
from hashlib import sha256

import pytest
from django.core.files.storage import storages
from django.db import DatabaseError
from django.utils.timezone import now
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from portal.errors import Passing, Refused
from portal.tasks import keeping, registry
from portal.tasks import output as store
from portal.tasks.blocks import blocks
from portal.tasks.keeping import drop_unfinished, join_small, keep, keep_due
from portal.tasks.outputs import Chunk, Output, Part, Stream
from portal.tasks.stores import Store
from tests.clouds.bad import MemoryStore
from tests.running import until
from tests.tasks.test_output import PIECES, out

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

FAILPOINTS = [
    "output.part.begun",
    "output.part.written",
    "output.part.kept",
    "output.chunks.deleted",
    "output.digested",
]


class Died(BaseException):
    """As a kill does it: no handler of ours is run."""


@pytest.fixture
def output(db):
    return Output.objects.create()


def again(output):
    return Output.objects.get(pk=output.pk)


def whole(output, **wanted):
    output = again(output)
    return b"".join(store.stream_bytes(output, store.Filter.parse(output, **wanted)))


def end(output):
    Output.objects.filter(pk=output.pk).update(ended=True)


def digests_of(output):
    names = [stream.name.lower() for stream in Stream if output.size(stream)]
    return {name: sha256(whole(output, stream=name)).hexdigest() for name in names}


def is_right(output, expected, objects):
    """Kept, once, with its checksums, and nothing beside it."""
    row = again(output)
    assert whole(row) == expected
    assert row.kept == row.digested == row.head == len(expected)
    assert row.digests == digests_of(row)
    assert row.keep_at is None
    assert not row.chunks.exists()
    parts = list(row.parts.all())
    assert [part.position for part in parts] == [0, *[part.position + part.size for part in parts[:-1]]]
    assert objects() == sorted(part.file for part in parts)


@pytest.mark.parametrize("name", FAILPOINTS)
def test_whoever_dies_while_keeping_the_next_one_goes_on(output, objects, small_parts, monkeypatch, name):
    log = [out(n % 3, b"line %d\n" % n, stream=Stream(1 + n % 2)) for n in range(100)]
    output.append_log(log, offset=0, size=1)
    expected = whole(output)
    end(output)

    def die(point):
        if point == name:
            raise Died

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(keeping, "failpoint", die)
            with pytest.raises(Died):
                keep(again(output))
        assert whole(output) == expected
    keep(again(output))
    unfinished = Part.objects.filter(size=0)
    assert unfinished.exists() == name.startswith(("output.part.begun", "output.part.written"))
    unfinished.update(begun=now() - timedelta(hours=2))
    drop_unfinished()
    assert not Part.objects.filter(size__lte=0).exists()
    is_right(output, expected, objects)


def test_what_nobody_has_compared_is_compared_although_there_is_nothing_to_keep(output):
    """As it is when whoever was told the checksums of a run that printed nothing dies at once."""
    Output.objects.filter(pk=output.pk).update(expected={"stdout": sha256(b"lost").hexdigest()})
    keep(again(output))
    assert again(output).agrees is False


def test_a_frame_from_the_store_costs_one_question_wherever_it_is(
    output, objects, small_parts, django_assert_num_queries
):
    output.append_log([out(0, b"line %d\n" % n) for n in range(100)], offset=0, size=1)
    keep(output)
    assert output.parts.count() > 2
    everything = whole(output)
    for n in range(0, output.head, 7):
        blocks(output, n)
    for n in range(0, output.head, 7):
        with django_assert_num_queries(1):
            (first, *_) = blocks(output, n)
        assert first.data == everything[n : first.end]


def test_an_object_that_is_still_being_written_is_left_alone(output, objects, monkeypatch):
    output.append(Stream.STDOUT, b"precious\n")

    def sweep(point):
        if point == "output.part.written":
            drop_unfinished()

    monkeypatch.setattr(keeping, "failpoint", sweep)
    keep(output)
    is_right(output, b"precious\n", objects)


def test_an_object_that_is_taken_for_left_over_never_becomes_a_part(output, objects, monkeypatch):
    output.append(Stream.STDOUT, b"precious\n")
    swept = []

    def sweep(point):
        if point == "output.part.written" and not swept:
            swept.append(Part.objects.update(begun=now() - timedelta(hours=2)))
            drop_unfinished()

    monkeypatch.setattr(keeping, "failpoint", sweep)
    keep(output)
    assert swept == [1]
    is_right(output, b"precious\n", objects)


def test_what_is_said_while_it_is_kept_is_kept_next_time(output, objects, small_parts, monkeypatch):
    output.append(Stream.STDOUT, b"one\n" * 100)
    points = []

    def say(point):
        points.append(point)
        again(output).append(Stream.PORTAL, b"said at %s\n" % point.encode())

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "failpoint", say)
        keep(again(output))
    end(output)
    row = again(output)
    assert set(FAILPOINTS) <= set(points)
    assert (row.is_kept, row.kept < row.head, row.keep_at is None) == (False, True, False)
    assert b"".join(store.stream_bytes(row)) == b"one\n" * 100 + b"".join(b"said at %s\n" % p.encode() for p in points)
    expected = whole(output)
    keep(row)
    is_right(output, expected, objects)
    assert again(output).is_kept


def test_an_output_that_is_reopened_is_live_again_and_kept_whole_in_the_end(
    output, objects, rings, django_capture_on_commit_callbacks
):
    output.append(Stream.PORTAL, b"first try\n")
    end(output)
    keep(again(output))
    assert again(output).is_kept
    with django_capture_on_commit_callbacks(execute=True):
        again(output).reopen()
    until(lambda: output.live_name in rings, what="the doorbell")
    again(output).append(Stream.PORTAL, b"second try\n")
    row = again(output)
    assert (row.ended, row.is_kept) == (False, False)
    end(output)
    assert not again(output).is_kept
    keep(again(output))
    assert again(output).is_kept
    is_right(output, b"first try\nsecond try\n", objects)


WANTED = [{}, {"stream": "stderr"}, {"stream": "portal,setup"}, {"rank": "0"}, {"rank": "1-20"}, {"rank": "1.0"}]


def read_from(output, cursor):
    found = []
    while more := store.read(output, cursor, limit=100):
        found += more
        cursor = more[-1].end
    return found


@hypothesis(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PIECES, st.data())
def test_readers_see_the_same_in_parts_as_in_chunks(db, rings, objects, monkeypatch, pieces, data):
    monkeypatch.setattr(Output, "CHUNK", 16)
    monkeypatch.setattr(keeping, "PART", 40)
    monkeypatch.setattr(store, "TAIL", 24)
    plain, kept = Output.objects.create(), Output.objects.create()
    log = [out(rank, piece, ms, world=world, stream=stream) for stream, (world, rank), piece, ms in pieces]
    for n, segment in enumerate(log):
        for output in (plain, kept):
            output.append_log([segment], offset=n, size=1)
        match data.draw(st.sampled_from(["", "", "join", "part", "all"])):
            case "join":
                join_small(again(kept))
            case "part" if kept.head > again(kept).kept:
                keeping._keep_part(again(kept), kept.head)
            case "all":
                keep(kept)
    # A page that was opened before knows less of what was kept meanwhile.
    stale = again(kept)
    if data.draw(st.booleans()):
        keep(again(kept))
    cursor = data.draw(st.integers(0, plain.head))
    limit = data.draw(st.integers(1, 60))
    for words in WANTED:
        wanted = store.Filter.parse(plain, **words) or store.Filter()
        expected = store.find(plain, wanted, cursor, limit=limit)
        for output in (stale, again(kept)):
            assert store.find(output, wanted, cursor, limit=limit) == expected
            assert store.reach(output, wanted, cursor, enough=limit) == store.reach(plain, wanted, cursor, enough=limit)
            assert b"".join(store.stream_lines(output, wanted)) == b"".join(store.stream_lines(plain, wanted))
    for output in (stale, again(kept)):
        assert read_from(output, cursor) == read_from(plain, cursor)
        assert store.rows(output, read_from(output, 0)) == store.rows(plain, read_from(plain, 0))
        assert max(0, plain.head - 24) <= store.tail_position(output) <= max(0, plain.head - 8)


# The store


class Counting:
    """Storage that says how much was read of it, and cannot seek."""

    def __init__(self, inner):
        self.inner, self.reads = inner, []

    def read_range(self, name, start, size):
        self.reads.append(size)
        return self.inner.read_range(name, start, size)

    def open(self, name, mode="rb"):
        raise AssertionError("fetches all of it")

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def counting(objects, monkeypatch):
    storage = Counting(storages["outputs"])
    monkeypatch.setitem(storages._storages, "outputs", storage)
    return storage.reads


def test_a_frame_of_a_kept_output_reads_little_more_than_its_bytes(output, counting):
    for n in range(100):
        output.append_log([out(n, b"%059d\n" % n * 500) for n in range(4)], offset=n, size=1)
    keep(output)
    row = again(output)
    counting.clear()
    found = store.read(row, 5_000_000)
    assert sum(len(piece.data) for piece in found) > 128 * 1024
    assert len(counting) == 2  # who wrote which, and the bytes
    assert sum(counting) < store.FRAME + 2 * Output.CHUNK


def test_one_stream_is_read_without_the_others(output, counting):
    output.append_log([out(0, b"x" * 5_000_000)], offset=0, size=1)
    output.append_log([out(1, b"oh\n", stream=Stream.STDERR)], offset=1, size=1)
    output.append_log([out(0, b"x" * 5_000_000), out(17, b"me\n")], offset=2, size=1)
    keep(output)
    for wanted, expected, most in [({"stream": "stderr"}, b"oh\n", 2), ({"rank": "17"}, b"me\n", 4)]:
        counting.clear()
        assert whole(output, **wanted) == expected
        assert sum(counting) < most * Output.CHUNK


def test_an_output_lies_in_the_store_that_it_names(settings, tmp_path, objects):
    memory = {"BACKEND": "django.core.files.storage.InMemoryStorage"}
    settings.STORAGES = {**settings.STORAGES, "bucket": memory}
    output = Output.objects.create(store="bucket")
    output.append(Stream.STDOUT, b"x" * 100_000)
    keep(output)
    assert objects() == []
    assert storages["bucket"].exists(output.parts.get().file)
    assert whole(output) == b"x" * 100_000
    assert again(output).digests == {"stdout": sha256(b"x" * 100_000).hexdigest()}


def test_what_a_person_finds_in_the_store_begins_with_the_output_as_it_was(output, objects):
    output.append_log([out(0, b"a\x00\xff\n"), out(1, b"b\n")], offset=0, size=1)
    keep(output)
    part = output.parts.get()
    with storages["outputs"].open(part.file) as file:
        assert file.read(part.size) == b"a\x00\xff\nb\n"


@pytest.fixture
def faulty(objects, monkeypatch):
    """`faulty(method, error)` makes the store's method raise for objects of one output."""

    def make(method, error, output=None):
        storage = storages["outputs"]
        real = getattr(storage, method)

        def call(name, *args, **kwargs):
            if output is None or str(output.uuid) in name:
                raise error
            return real(name, *args, **kwargs)

        monkeypatch.setattr(storage, method, call)

    return make


class ClientError(Exception):
    """What botocore raises is no OSError."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ClientError("AccessDenied")])
def test_a_store_that_does_not_take_an_output_is_a_passing_fault_in_words(output, objects, faulty, error):
    output.append(Stream.STDOUT, b"one\n")
    faulty("save", error)
    with pytest.raises(Passing, match="The store “outputs” did not take an output") as raised:
        keep(output)
    assert str(error) in raised.value.evidence
    assert whole(output) == b"one\n"
    assert not Part.objects.exists()
    assert objects() == []


def test_a_database_that_is_away_is_not_blamed_on_the_store(output, monkeypatch):
    output.append(Stream.STDOUT, b"one\n")

    def away(*_, **__):
        raise DatabaseError("server closed the connection unexpectedly")

    monkeypatch.setattr(keeping, "blocks", away)
    with pytest.raises(DatabaseError):
        keep(output)


def test_a_store_that_keeps_less_than_it_was_given_loses_nothing(output, objects, monkeypatch):
    output.append(Stream.STDOUT, b"one\n" * 1000)
    monkeypatch.setattr(storages["outputs"], "size", lambda name: 7)
    with pytest.raises(Passing, match="did not take all"):
        keep(output)
    assert whole(output) == b"one\n" * 1000
    assert objects() == []


def test_what_is_damaged_is_said_and_read_by_nobody_for_ever(output, objects):
    output.append(Stream.STDOUT, b"x" * 200_000)
    Chunk.objects.filter(output=output, position=65536).delete()
    for read in (lambda: whole(output), lambda: keep(output), lambda: whole(output, stream="stdout")):
        with pytest.raises(Passing, match="A part of this output cannot be found"):
            read()


def test_an_output_that_cannot_be_kept_hinders_no_other(objects, faulty, caplog):
    several = [Output.objects.create() for _ in range(4)]
    for output in several:
        output.append(Stream.PORTAL, b"x\n")
        end(output)
    faulty("save", OSError("AccessDenied"), several[1])
    Chunk.objects.filter(output=several[2]).delete()
    stop = threading.Event()
    assert not keep_due(stop)
    assert [again(output).is_kept for output in several] == [True, False, False, True]
    for output in several[1:3]:
        row = again(output)
        assert row.keep_tries == 1
        assert timedelta(seconds=30) < row.keep_at - now() < timedelta(seconds=90)
    tries = len(caplog.records)
    assert not keep_due(stop)
    assert len(caplog.records) == tries  # not their turn
    Output.objects.filter(pk=several[1].pk).update(keep_at=now() - timedelta(seconds=1), keep_tries=12)
    keep_due(stop)
    assert timedelta(minutes=59) < again(several[1]).keep_at - now() < timedelta(minutes=61)


def test_an_output_that_could_not_be_kept_at_its_end_is_compared_when_it_is(output, objects, faulty):
    output.append(Stream.STDOUT, b"one\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storages["outputs"], "save", lambda *_: (_ for _ in ()).throw(OSError("away")))
        with pytest.raises(Passing):
            keep(output, {"stdout": sha256(b"one\n").hexdigest()})
    end(output)
    assert again(output).agrees is None
    keep_due(threading.Event())
    assert again(output).agrees is True
    assert again(output).is_kept


def test_sums_that_differ_are_said_whoever_keeps_it(output, objects):
    output.append(Stream.STDOUT, b"x")
    keep(output, {"stdout": sha256(b"y").hexdigest()})
    output.append(Stream.PORTAL, b"cleaned up\n")
    keep(again(output))
    assert again(output).agrees is False


# While it goes on


def test_a_long_output_is_moved_to_the_store_while_it_grows(output, objects, small_parts):
    for n in range(100):
        output.append_log([out(0, b"line %04d\n" % n)], offset=n, size=1)
    keep_due(threading.Event())
    row = again(output)
    assert 0 < row.kept < row.head
    assert row.head - row.kept < 256
    assert not row.chunks.filter(position__lt=row.kept).exists()
    assert row.digested == 0
    assert whole(output) == b"".join(b"line %04d\n" % n for n in range(100))


def test_a_day_of_small_lines_makes_few_rows(output, objects, monkeypatch):
    monkeypatch.setattr(Output, "CHUNK", 40 * 50)
    monkeypatch.setattr(keeping, "MANY", 100)
    lines = [b"a line of this size is usual, %09d\n" % n for n in range(1000)]
    most = 0
    for n, line in enumerate(lines):
        output.append_log([out(n % 3, line, ms=n * 100)], offset=n, size=1)
        if n % 50 == 0:
            keep_due(threading.Event())
            most = max(most, output.chunks.count())
    assert whole(output) == b"".join(lines)
    assert most < 1000 / 50 + 200
    pieces = read_from(output, 0)
    assert [piece.ms - pieces[0].ms for piece in pieces] == [n * 100 for n in range(1000)]


def test_chunks_of_different_clocks_keep_their_times(output, objects):
    year = 366 * 24 * 3600 * 1000
    for n, ms in enumerate([0, 5, -3000, year, year + 1, 7]):
        output.append_log([out(n, b"%d\n" % n, ms=ms)], offset=n, size=1)
    before = read_from(output, 0)
    keep(output)
    assert read_from(again(output), 0) == before
    assert output.parts.get().size == 12


def test_two_who_join_the_same_chunks_make_them_once(output, objects, small_parts, monkeypatch):
    for n in range(60):
        output.append_log([out(0, b"line %04d\n" % n)], offset=n, size=1)
    expected = whole(output)
    real, inside = keeping.joined, []

    def other(found):
        if not inside:
            inside.append(1)
            join_small(again(output))
        return real(found)

    monkeypatch.setattr(keeping, "joined", other)
    join_small(again(output))
    assert whole(output) == expected
    assert output.chunks.count() == 9 + 6  # the last ones wait for more


def test_a_reader_goes_on_where_it_was_when_chunks_are_joined_under_it(output, objects, small_parts, monkeypatch):
    for n in range(60):
        output.append_log([out(n % 2, b"line %04d\n" % n)], offset=n, size=1)
    wanted = store.Filter.parse(output, rank="0,1")
    expected = store.find(output, wanted, 0, limit=30)
    real, calls = store.load, []

    def load(output, stubs):
        calls.append(len(stubs))
        if len(calls) == 2:
            join_small(again(output))
        return real(output, stubs)

    monkeypatch.setattr(store, "load", load)
    assert store.find(output, wanted, 0, limit=30) == expected
    assert expected[1] == 30
    assert len(calls) == 3


# The cap


def test_an_output_that_is_too_long_says_so_where_it_is_cut_and_counts_the_rest(output, objects, settings):
    settings.OUTPUT_GIB = 100 / 1024**3
    stale = again(output)
    output.append_log([out(0, b"x" * 60)], offset=0, size=60)
    output.append_log([out(0, b"y" * 30), out(1, b"z" * 30, stream=Stream.STDERR)], offset=60, size=60)
    stale.append_log([out(0, b"more\n")], offset=120, size=5)
    output.append(Stream.PORTAL, b"cleaned up\n")
    row = again(output)
    assert (row.stdout, row.stderr, row.cut, row.log) == (90, 10, 25, 125)
    said = whole(output, stream="portal")
    assert said.startswith(b"The output is cut here: it is more than ")
    assert said.count(b"cut here") == 1
    assert said.endswith(b"PORTAL_OUTPUT_GIB.\ncleaned up\n")
    assert whole(output) == b"x" * 60 + b"y" * 30 + b"z" * 10 + said
    keep(row, {"stdout": sha256(b"all of it").hexdigest()})
    row = again(output)
    assert row.agrees is None  # of what is not whole nothing can be said
    header = store.frame(row, row.head, [])
    assert b'"cut":25' in header


def test_an_output_of_just_the_size_that_is_stored_is_whole(output, settings):
    settings.OUTPUT_GIB = 100 / 1024**3
    output.append_log([out(0, b"x" * 100)], offset=0, size=100)
    assert (again(output).cut, whole(output)) == (0, b"x" * 100)
    output.append_log([out(0, b"x")], offset=100, size=1)
    assert again(output).cut == 1


def test_an_output_that_would_take_the_last_of_the_portals_disk_is_cut_and_says_so(output, settings):
    output.append_log([out(0, b"before\n")], offset=0, size=7)
    settings.LOCAL_NODES = {**settings.LOCAL_NODES, "free_mib": 1 << 40, "free_percent": 250}
    output.append_log([], offset=7, size=3)
    output.append_log([out(0, b"much\n"), out(1, b"more\n")], offset=10, size=10)
    output.append(Stream.PORTAL, b"cleaned up\n")
    settings.LOCAL_NODES = {**settings.LOCAL_NODES, "free_mib": 0}
    output.append_log([out(0, b"after\n")], offset=20, size=6)
    row = again(output)
    assert (row.stdout, row.cut, row.log) == (7, 16, 26)
    said = whole(output, stream="portal")
    assert said.startswith(b"The output is cut here: the portal's own disk is nearly full.")
    assert whole(output) == b"before\n" + said
    assert said.endswith(b"can make room on it.\ncleaned up\n")


def test_without_a_cap_all_is_stored(output, settings):
    settings.OUTPUT_GIB = 0
    output.append_log([out(0, b"x" * 100)], offset=0, size=100)
    assert (again(output).cut, again(output).head) == (0, 100)


# Of an earlier version


def test_what_an_earlier_version_has_kept_is_read_where_it_is_and_moved(output, objects):
    output.append_log([out(0, b"one\n" * 30_000), out(1, b"oh\n", stream=Stream.STDERR)], offset=0, size=1)
    expected = whole(output)
    digests = digests_of(output)
    old = Store("outputs").write(f"{output.uuid.hex[:2]}/{output.uuid}", [expected])
    output.chunks.update(data=None)
    Output.objects.filter(pk=output.pk).update(file=old, ended=True, digests=digests)
    assert whole(output) == expected
    assert whole(output, stream="stderr") == b"oh\n"
    assert store.read(again(output), 65_000)[0].position == 65_000
    again(output).append(Stream.PORTAL, b"said later\n")
    keep_due(threading.Event())
    is_right(output, expected + b"said later\n", objects)
    assert again(output).file == ""


# In the store of an account


@pytest.fixture
def account(objects, monkeypatch):
    """The store of the account that an output names `account`."""
    store = MemoryStore()
    monkeypatch.setattr(registry, "store", {"account": store}.__getitem__)
    return store


def of_run(n=0, content=b"one\n"):
    output = Output.objects.create(store="account", folder=f"outputs/workspace/run-{n}")
    output.append(Stream.STDOUT, content)
    end(output)
    return output


def test_what_a_run_printed_lies_with_the_owner_of_the_account_and_is_read_from_there(account, objects, small_parts):
    content = b"".join(b"line %04d\n" % n for n in range(200))
    output = of_run(content=content)
    keep(output, {"stdout": sha256(content).hexdigest()})
    row = again(output)
    names = [part.file for part in row.parts.all()]
    assert (objects(), sorted(account.objects)) == ([], sorted(names))
    assert len(names) > 5
    assert all(name.startswith("outputs/workspace/run-0/") for name in names)
    assert b"".join(account.get(part.file, 0, part.size) for part in row.parts.all()) == content
    assert (row.is_kept, row.agrees, whole(output), row.chunks.count()) == (True, True, content, 0)
    assert content[1000:].startswith(store.read(row, 1000, limit=100)[0].data)


def test_an_output_of_many_parts_is_never_all_in_memory(account):
    output = of_run(content=b"x" * 3_000_000)
    held = []
    put = account.put
    account.put = lambda name, data, **_: put(name, (held.append(len(piece)) or piece for piece in data))
    keep(output)
    assert max(held) <= 1024 * 1024
    assert again(output).is_kept


def test_a_reply_of_the_store_that_is_lost_doubles_nothing(account, monkeypatch):
    output = of_run()
    put, lost = account.put, []

    def lose(name, data, **_):
        put(name, data)
        if not lost:
            lost.append(name)
            raise Passing("The store's reply was lost.", evidence="read timed out")

    monkeypatch.setattr(account, "put", lose)
    with pytest.raises(Passing, match="The cloud configuration's store did not take an output"):
        keep(output)
    assert whole(output) == b"one\n"
    keep(again(output))
    assert list(account.objects) == [output.parts.get().file]
    assert again(output).is_kept


def away(*_, **__):
    raise Refused("The cloud does not accept these credentials.", evidence="InvalidAccessKeyId")


def test_a_store_that_is_away_loses_nothing_holds_up_no_other_and_is_said(account, objects, monkeypatch, caplog):
    several = [of_run(n) for n in range(20)]
    other = Output.objects.create()
    other.append(Stream.PORTAL, b"x\n")
    end(other)
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(account, "put", lambda *_, **__: asked.append(1) or away())
        keep_due(threading.Event())
        assert again(other).is_kept
        assert len(asked) == keeping.MOST_IN_A_ROW
        keep_due(threading.Event())
        assert len(asked) == keeping.MOST_IN_A_ROW  # not before a while
    assert "InvalidAccessKeyId" in caplog.text
    assert all(whole(output) == b"one\n" for output in several)
    late = [output for output in several if again(output).is_late]
    assert len(late) == keeping.MOST_IN_A_ROW
    assert b'"late":true' in store.frame(again(late[0]), 0, [])
    Output.objects.filter(store="account").update(keep_at=now() - timedelta(seconds=1))
    keep_due(threading.Event())
    assert all(again(output).is_kept and not again(output).is_late for output in several)


def test_what_is_kept_in_a_store_that_is_away_cannot_be_read_now_and_says_so(account, monkeypatch):
    output = of_run()
    keep(output)
    with monkeypatch.context() as patch:
        patch.setattr(account, "get", away)
        with pytest.raises(Passing, match="The cloud configuration's store does not give an output") as raised:
            whole(output)
        assert "InvalidAccessKeyId" in raised.value.evidence
    assert whole(output) == b"one\n"


def test_what_somebody_took_out_of_the_store_is_not_shown_as_if_it_were_empty(account):
    output = of_run()
    keep(output)
    account.objects.clear()
    with pytest.raises(Passing, match="does not give an output"):
        whole(output)


def test_keeping_much_gives_signs_of_life_all_the_while(account, small_parts):
    output, signs = of_run(content=b"x" * 2000), []
    keep(output, lives=lambda: signs.append(1))
    assert len(signs) > again(output).parts.count() > 5
