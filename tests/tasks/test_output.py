"""Output: every byte once, in order, and readable from any cursor."""

from __future__ import annotations

import json
import struct
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.tasks import output as store
from portal.tasks.models import Output, Stream, WrongOffset

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def output(db):
    return Output.objects.create()


def whole(output, stream=None):
    return b"".join(store.stream_bytes(output, stream))


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


def test_only_the_one_who_knows_the_offset_may_write(output):
    output.append(Stream.STDOUT, b"abc", offset=0)
    with pytest.raises(WrongOffset):
        output.append(Stream.STDOUT, b"abc", offset=0)
    output.append(Stream.STDOUT, b"def", offset=3)
    assert whole(output) == b"abcdef"


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
    frame = store.frame(output, 2, store.read(output, 2))
    size = struct.unpack(">I", frame[:4])[0]
    header, body = json.loads(frame[4 : 4 + size]), frame[4 + size :]
    assert body == b"llo\noh\n"
    assert (header["after"], header["next"], header["head"], header["ended"]) == (2, 9, 9, False)
    assert [piece[:4] for piece in header["pieces"]] == [[1, 2, 4, 0], [2, 6, 3, 1]]


def test_compacting_keeps_every_byte_and_gives_checksums(output):
    output.append(Stream.STDOUT, b"a" * 100_000)
    output.append(Stream.STDERR, b"oh\n")
    output.append(Stream.STDOUT, b"b\n")
    before = whole(output)
    stdout = sha256(b"a" * 100_000 + b"b\n").hexdigest()
    store.compact(output, {"stdout": stdout, "stderr": sha256(b"oh\n").hexdigest(), "setup": sha256(b"").hexdigest()})
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
    store.compact(output, {"stdout": sha256(b"y").hexdigest()})
    assert Output.objects.get(pk=output.pk).agrees is False


def test_compacting_again_after_a_crash_does_it_once(output, monkeypatch):
    output.append(Stream.STDOUT, b"x\n")

    class Died(BaseException):
        pass

    def die(name):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(store, "failpoint", die)
        with pytest.raises(Died):
            store.compact(output)
    store.compact(output)
    assert whole(Output.objects.get(pk=output.pk)) == b"x\n"


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


def test_a_very_long_line_is_cut_with_words():
    text = store.plain_text(b"x" * 1_000_000)
    assert len(text) < 10_000
    assert text.endswith("more characters, whole in the download")


def test_rows_put_a_line_together_from_its_pieces(output):
    output.append(Stream.STDOUT, b"first ha")
    output.append(Stream.STDERR, b"oh\n")
    output.append(Stream.STDOUT, b"lf\nsecond\n")
    shown = [(row.stream, row.text) for row in store.rows(store.read(output, 0))]
    assert shown == [("stdout", "first half"), ("stderr", "oh"), ("stdout", "second")]
