"""Output: every byte once, in order, and readable from any cursor."""

from __future__ import annotations

import json
import struct
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.tasks import output as store
from portal.tasks.keeping import keep
from portal.tasks.outputs import ENTRY, NO_RANK, Output, Segment, Stream, WrongOffset

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def output(db):
    return Output.objects.create()


def whole(output, stream=None, rank=""):
    wanted = store.Filter.parse(output, stream=stream.name if stream else "", rank=rank)
    return b"".join(store.stream_bytes(output, wanted))


def lines_of(output, **wanted):
    return b"".join(store.stream_lines(output, store.Filter.parse(output, **wanted)))


def out(rank, data, ms=0, *, world=0, stream=Stream.STDOUT):
    return Segment(stream, data, START + ms * 1_000_000, world, rank)


START = int(datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()) * 1_000_000_000


def test_bytes_come_back_as_they_were(output):
    output.append(Stream.STDOUT, b"one\n")
    output.append(Stream.STDERR, b"oh\xff\x00\n")
    output.append(Stream.STDOUT, b"two")
    assert whole(output) == b"one\noh\xff\x00\ntwo"
    assert whole(output, Stream.STDOUT) == b"one\ntwo"
    assert whole(output, Stream.STDERR) == b"oh\xff\x00\n"
    assert (output.head, output.stdout, output.stderr, output.lines) == (12, 7, 5, 2)


def test_large_writes_are_stored_in_chunks_of_64_kib(output):
    data = bytes(range(256)) * 1000
    output.append(Stream.STDOUT, data)
    assert [c.size for c in output.chunks.all()] == [65536, 65536, 65536, 59392]
    assert whole(output) == data


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Stream)), st.binary(min_size=1, max_size=300)), max_size=12),
    st.data(),
)
def test_reading_from_any_cursor_gives_the_rest(db, rings, writes, data):
    output = Output.objects.create()
    for stream, piece in writes:
        output.append(stream, piece)
    everything = b"".join(piece for _, piece in writes)
    cursor = data.draw(st.integers(0, len(everything)))
    got, at = b"", cursor
    while pieces := store.read(output, at, limit=200):
        for piece in pieces:
            assert piece.position == at
            assert piece.line == everything[:at].count(b"\n")
            got += piece.data
            at += len(piece.data)
    assert got == everything[cursor:]


def test_a_frame_says_where_it_begins_and_what_to_ask_next(output):
    output.append(Stream.STDOUT, b"hello\n")
    output.append(Stream.STDERR, b"oh\n")
    frame = store.frame(output, 2, store.blocks(output, 2))
    size = struct.unpack(">I", frame[:4])[0]
    header, body = json.loads(frame[4 : 4 + size]), frame[4 + size :]
    assert body == b"llo\noh\n"
    assert (header["after"], header["next"], header["head"], header["ended"]) == (2, 9, 9, False)
    pieces = header["pieces"].split(";")
    assert pieces[1::2] == ["1,,4,0", "2,,3,0"]
    assert abs(int(pieces[0].removeprefix("@")) / 1000 - datetime.now(UTC).timestamp()) < 60
    assert header["line"] == 0


def test_compacting_keeps_every_byte_and_gives_checksums(output):
    output.append(Stream.STDOUT, b"a" * 100_000)
    output.append(Stream.STDERR, b"oh\n")
    output.append(Stream.STDOUT, b"b\n")
    before = whole(output)
    stdout = sha256(b"a" * 100_000 + b"b\n").hexdigest()
    keep(output, {"stdout": stdout, "stderr": sha256(b"oh\n").hexdigest(), "setup": sha256(b"").hexdigest()})
    output = Output.objects.get(pk=output.pk)
    assert not output.chunks.filter(data__isnull=False).exists()
    assert whole(output) == before
    assert output.digests["stdout"] == stdout
    assert output.agrees
    assert store.read(output, 99_999, limit=10)[0].data == b"a"
    output.append(Stream.PORTAL, b"one more sentence\n")
    assert whole(output) == before + b"one more sentence\n"


def test_a_checksum_that_differs_is_said(output):
    output.append(Stream.STDOUT, b"x")
    keep(output, {"stdout": sha256(b"y").hexdigest()})
    assert Output.objects.get(pk=output.pk).agrees is False


def test_a_long_output_opens_near_its_end(output):
    for n in range(10):
        output.append(Stream.STDOUT, b"%d" % n * 60_000 + b"\n")
    start = store.tail_position(output)
    assert output.head - store.TAIL <= start <= output.head - store.TAIL + 60_001
    assert store.read(output, start)[0].position == start


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain", "plain"),
        (b"10%\r50%\r100%", "100%"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]8;;http://evil\x07link\x1b]8;;\x07", "link"),
        (b"\x1b[2J\x1b[Hgone", "gone"),
        (b"a\x00b\xc2\x9bc", "abc"),
        (b"caf\xc3\xa9 \xff", "café �"),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_a_line_as_plain_text(raw, shown):
    assert store.plain_text(raw) == shown


@pytest.mark.parametrize("part", [b"\x1b]", b"\x1b]0;", b"\x1b[", b"\x1b[0;", b"\x1b[0 ", b"\x1b", b"\r", b"\x1b]\r"])
def test_no_line_takes_longer_than_one_that_is_as_long(part):
    """One of 256 kB, of titles that never end, held up all that the process does for hours."""
    began = time.process_time()
    store.plain_text(part * (60_000 // len(part)))
    assert time.process_time() - began < 1


def test_a_very_long_line_is_cut_with_words():
    text = store.plain_text(b"x" * 1_000_000)
    assert len(text) < 10_000
    assert text.endswith("more characters, whole in the download")


def test_rows_put_a_line_together_from_its_pieces(output):
    output.append(Stream.STDOUT, b"first ha")
    output.append(Stream.STDERR, b"oh\n")
    output.append(Stream.STDOUT, b"lf\nsecond\n")
    shown = [(row.stream, row.text) for row in store.rows(output, store.read(output, 0))]
    assert shown == [("stdout", "first half"), ("stderr", "oh"), ("stdout", "second")]


def shown(output, pieces=None):
    return [(row.number, row.rank, row.stream, row.text) for row in store.rows(output, pieces or store.read(output, 0))]


def test_what_ranks_write_at_once_does_not_mix(output):
    log = [out(0, b"10%"), out(1, b"hel"), out(0, b"\r50%"), out(2, b"oh", stream=Stream.STDERR), out(1, b"lo\nnext "),
           out(0, b"\r100%\n"), out(0, b"spawned\n", world=1), out(1, b"line\n")]  # fmt: skip
    output.append_log(log, offset=0, size=500)
    assert shown(output) == [
        (2, "0", "stdout", "100%"),
        (1, "1", "stdout", "hello"),
        (None, "2", "stderr", "oh"),
        (4, "1", "stdout", "next line"),
        (3, "1.0", "stdout", "spawned"),
    ]
    assert lines_of(output) == b"hello\n10%\r50%\r100%\nspawned\nnext line\noh"
    assert lines_of(output, stream="stdout").splitlines()[0] == b"hello"
    assert whole(output, rank="1") == b"hello\nnext line\n"
    assert whole(output, rank="1.0") == b"spawned\n"


def test_the_number_of_a_line_is_its_number_in_the_download(output):
    output.append_log([out(n % 7, b"half ") for n in range(7)], offset=0, size=1)
    output.append_log([out(n % 7, b"%d\nand %d " % (n, n)) for n in range(40)], offset=1, size=1)
    downloaded = lines_of(output).decode().splitlines()
    numbered = [row for row in store.rows(output, store.read(output, 0)) if row.number]
    assert len(numbered) == 40
    assert all(downloaded[row.number - 1].rstrip() == row.text.rstrip() for row in numbered)


def test_the_first_and_the_last_lines_are_cut_out_in_the_middle_of_what_was_written_at_once(output):
    output.append_log([out(0, b"a\nb\nc\nd"), out(1, b"\n\n"), out(0, b"\ne\nf")], offset=0, size=1)
    pieces = store.read(output, 0)

    def said(some):
        return [(piece.position, piece.line, piece.data) for piece in some]

    assert said(store.first_lines(pieces, 2)) == [(0, 0, b"a\nb\n")]
    assert said(store.first_lines(pieces, 4)) == [(0, 0, b"a\nb\nc\nd"), (7, 3, b"\n")]
    assert said(store.last_lines(pieces, 1)) == [(10, 6, b"e\nf")]
    assert said(store.last_lines(pieces, 3)) == [(8, 4, b"\n"), (9, 5, b"\ne\nf")]
    assert store.first_lines(pieces, 8) == store.last_lines(pieces, 7) == pieces


def test_a_log_is_stored_once_whoever_tries_again(output):
    again = Output.objects.get(pk=output.pk)
    output.append_log([out(0, b"abc\n")], offset=0, size=30)
    with pytest.raises(WrongOffset):
        again.append_log([out(0, b"abc\n")], offset=0, size=30)
    again.append_log([], offset=30, size=12)
    again.append_log([out(1, b"def\n")], offset=42, size=10)
    assert (again.log, again.head, whole(again)) == (52, 8, b"abc\ndef\n")
    assert output.chunks.count() == 2


def test_a_log_without_output_rings_for_nobody(output, rings, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        output.append_log([], offset=0, size=12)
    assert rings == []


def test_a_line_of_each_of_500_ranks_is_one_chunk_and_few_queries(output, django_assert_max_num_queries):
    log = [out(rank, b"%59d\n" % rank, ms=rank // 100) for rank in range(500)]
    with django_assert_max_num_queries(5):  # a savepoint and its release among them
        output.append_log(log, offset=0, size=1)
    assert output.chunks.count() == 1
    with django_assert_max_num_queries(1):
        pieces = store.read(output, 0)
    assert [(piece.rank, piece.line, piece.data) for piece in pieces] == [
        (rank, rank, b"%59d\n" % rank) for rank in range(500)
    ]
    assert [piece.ms - pieces[0].ms for piece in pieces[::100]] == [0, 1, 2, 3, 4]


def test_what_one_rank_writes_within_a_millisecond_is_one_piece(output):
    output.append_log([out(0, b"a"), out(0, b"b"), out(0, b"c", ms=1), out(1, b"d", ms=1)], offset=0, size=1)
    assert [piece.data for piece in store.read(output, 0)] == [b"ab", b"c", b"d"]


def test_times_are_the_nodes_even_if_their_clocks_differ_or_lie(output):
    at = datetime(2026, 11, 26, 12, 0, 1, tzinfo=UTC)
    odd = [out(0, b"a\n"), Segment(Stream.STDOUT, b"b\n", at, 0, 1), out(2, b"c\n", ms=-3000)]
    output.append_log([*odd, Segment(Stream.STDOUT, b"d\n", 2**64 - 1, 0, 3)], offset=0, size=1)
    seconds = [(row.at - at).total_seconds() for row in store.rows(output, store.read(output, 0))]
    assert seconds[:3] == [-1, 0, -4]
    assert seconds[3] > timedelta(days=40).total_seconds()


PIECES = st.lists(
    st.tuples(
        st.sampled_from([Stream.STDOUT, Stream.STDERR]),
        st.sampled_from([(0, 0), (0, 1), (0, 17), (1, 0)]),
        st.lists(st.sampled_from([b"x", b"yy ", b"\n", b"\r", b"\xff"]), min_size=1, max_size=8).map(b"".join),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PIECES, st.data())
def test_each_rank_gets_back_its_bytes_and_whole_lines(db, rings, monkeypatch, pieces, data):
    monkeypatch.setattr(Output, "CHUNK", 16)
    output = Output.objects.create()
    log = [out(rank, piece, ms, world=world, stream=stream) for stream, (world, rank), piece, ms in pieces]
    done = 0
    while done < len(log):
        step = data.draw(st.integers(1, 6))
        output.append_log(log[done : done + step], offset=done, size=len(log[done : done + step]))
        done += step
    by_writer = {}
    for stream, (world, rank), piece, _ in pieces:
        by_writer[stream, world, rank] = by_writer.get((stream, world, rank), b"") + piece
    assert whole(output) == b"".join(piece for _, _, piece, _ in pieces)
    assert all(chunk.size <= 16 for chunk in output.chunks.all())

    # What one rank wrote, by the filter; and from any cursor on the same as without one.
    cursor = data.draw(st.integers(0, output.head))
    rest = store.read(output, cursor)
    for (stream, world, rank), written in by_writer.items():
        name = f"{world}.{rank}" if world else str(rank)
        assert whole(output, stream, name) == written
        found, looked = store.find(output, store.Filter.parse(output, stream=stream.name, rank=name), cursor)
        assert looked == output.head
        assert found == [piece for piece in rest if piece.writer == (stream, world, rank)]

    # Lines: as many as were ended, each of one rank, in an order that keeps each rank's own.
    ended = {writer: written.split(b"\n")[:-1] for writer, written in by_writer.items()}
    begun = [written.rsplit(b"\n", 1)[-1] for written in by_writer.values() if not written.endswith(b"\n")]
    downloaded = lines_of(output).split(b"\n")
    assert sorted(downloaded if begun else downloaded[:-1]) == sorted([*chain(*ended.values()), *begun])
    assert len(lines_of(output)) == output.head + max(0, len(begun) - 1)
    for writer, lines in ended.items():
        left = iter(downloaded)
        assert all(line in left for line in lines), writer
    numbers = [row.number for row in store.rows(output, store.read(output, 0)) if row.number]
    assert sorted(numbers) == list(range(1, output.lines + 1))


def test_a_line_without_end_does_not_take_all_memory(monkeypatch):
    monkeypatch.setattr(store.Lines, "MOST", 10)
    lines = store.Lines()
    piece = store.Piece(1, 0, 0, 0, b"abcdefgh", 0, 0)
    assert lines.feed([piece, piece._replace(rank=1, data=b"12345")]) == b"abcdefgh\n"
    assert lines.feed([piece._replace(rank=1, data=b"6\n")]) == b"123456\n"
    assert lines.end() == b""


def test_the_last_words_of_a_rank_are_found_far_behind_those_of_others(output, monkeypatch):
    monkeypatch.setattr(store, "SCANNED", 200_000)
    log = [out(17, b"early\n"), out(3, b"x" * 900_000), out(17, b"late\n"), out(3, b"y" * 900_000)]
    output.append_log(log, offset=0, size=1)
    wanted = store.Filter.parse(output, rank="17")
    assert b"".join(piece.data for piece in store.tail(output, wanted)) == b"early\nlate\n"
    assert b"".join(piece.data for piece in store.tail(output, wanted, enough=3)) == b"late\n"
    pieces, looked = store.find(output, wanted, 0)
    assert (looked, [piece.data for piece in pieces]) == (200_000, [b"early\n"])
    assert store.reach(output, wanted, output.head, enough=3) == (900_006, 5)
    assert store.reach(output, wanted, 900_000, enough=7) == (0, 6)


def test_one_look_for_a_rank_goes_through_a_part_of_the_output_only(output, monkeypatch):
    monkeypatch.setattr(store, "MOST_CHUNKS", 4)
    output.append_log([out(17, b"early\n"), out(3, b"x" * 650_000)], offset=0, size=1)
    wanted = store.Filter.parse(output, rank="17")
    at, found = store.reach(output, wanted, output.head)
    assert 0 < at < output.head
    assert found == 0
    for _ in range(2):
        at, found = store.reach(output, wanted, at)
    assert (at, found) == (0, 6)


def test_one_look_goes_through_so_many_segments_only(output, monkeypatch):
    """A program that writes byte by byte makes the work of a filter large, not its answers."""
    monkeypatch.setattr(store, "MOST_SEGMENTS", 8192)
    monkeypatch.setattr(store, "AT_ONCE", 1)
    output.append_log([out(n % 2, b"x") for n in range(30_000)], offset=0, size=1)
    wanted = store.Filter.parse(output, rank="17")
    assert store.find(output, wanted, 0) == ([], 8192)
    assert store.reach(output, wanted, 30_000) == (30_000 - 30_000 % 4096 - 2 * 4096, 0)


def test_a_filter_reads_no_bytes_of_chunks_that_hold_none_of_it(output, django_assert_num_queries):
    output.append_log([out(3, b"x" * 640_000), out(17, b"here\n")], offset=0, size=1)
    wanted = store.Filter.parse(output, rank="17")
    with django_assert_num_queries(2) as queries:
        store.find(output, wanted, 0)
    assert '"data"' not in queries[0]["sql"]
    assert len(output.chunks.all()) == 10


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("3", {(0, 3)}),
        ("0-2, 17", {(0, 0), (0, 1), (0, 2), (0, 17)}),
        ("1.2", {(1, 2)}),
        ("1.0-3", {(1, 2)}),
        ("tide-1", {(0, 3), (1, 2)}),
        ("tide-1,0", {(0, 0), (0, 3), (1, 2)}),
        ("400-499", set()),
    ],
)
def test_ranks_are_named_as_people_do(output, words, taken):
    output.nodes = {"hosts": ["tide-0", "tide-1"], "of": {"0": 0, "1": 0, "2": 0, "3": 1, "1.2": 1}}
    known = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 17), (1, 2)]
    wanted = store.Filter.parse(output, rank=words)
    assert {one for one in known if wanted.takes_entry((Stream.STDOUT, *one))} == taken
    assert not wanted.takes_entry((Stream.PORTAL, 0, NO_RANK))
    assert output.node_of(1, 2) == "tide-1"
    assert output.node_of(0, 99) == ""


@pytest.mark.parametrize("words", ["x", "3-", "-1", "1.2.3", "tide-9", "0x3", "٣", "1 " * 501])
def test_what_names_no_rank_is_said(output, words):
    with pytest.raises(ValueError, match=r"is no rank|At most 500"):
        store.Filter.parse(output, rank=words)


def test_a_filtered_frame_says_where_each_piece_lies(output):
    output.append_log([out(0, b"a\n"), out(17, b"b\n", 5), out(0, b"c\n"), out(2, b"d\n", world=1)], offset=0, size=1)
    pieces, looked = store.find(output, store.Filter.parse(output, rank="17, 1.2"), 0)
    frame = store.filtered_frame(output, 0, looked, pieces)
    size = struct.unpack(">I", frame[:4])[0]
    header = json.loads(frame[4 : 4 + size])
    assert (header["after"], header["next"], frame[4 + size :]) == (0, 8, b"b\nd\n")
    assert header["pieces"] == f"@{START // 1_000_000 + 5};1,17,2,0,2,1;1,1.2,2,-5,6,3"


def test_whoever_writes_byte_by_byte_makes_no_large_frame(output):
    output.append_log([out(n % 2, b"x") for n in range(30_000)], offset=0, size=1)
    found = store.blocks(output, 0)
    assert sum(len(block.segments) for block in found) // ENTRY.size == store.MOST_PIECES
    assert len(store.frame(output, 0, found)) < 100_000
    assert whole(output) == b"x" * 30_000


def test_ranks_are_known_after_compacting_too(output):
    output.append_log([out(0, b"a\n"), out(17, b"b\n")], offset=0, size=1)
    keep(output)
    output = Output.objects.get(pk=output.pk)
    assert whole(output, rank="17") == b"b\n"
    assert output.digests == {"stdout": sha256(whole(output, Stream.STDOUT)).hexdigest()}
