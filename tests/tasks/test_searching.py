"""Words in all of an output, who was active when, and lines with whose they are."""

from __future__ import annotations

from itertools import count

import pytest

from portal.tasks import output as store
from portal.tasks import searching
from portal.tasks.activity import SPANS, Activity
from portal.tasks.blocks import stub_with_line
from portal.tasks.keeping import keep
from portal.tasks.outputs import Output, Stream
from portal.tasks.searching import Place, search
from tests.tasks.test_output import START, out

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def output(db):
    return Output.objects.create()


def found(output, words, rank="", most=1000):
    """(line, rank, text) of all that is found, a stretch at a time."""
    wanted = store.Filter.parse(output, rank=rank)
    hits, place = [], Place()
    for _ in range(1000):
        part = search(output, words, wanted, place, most=most)
        hits += [(hit.line, hit.rank, hit.text) for hit in part.hits]
        if part.following is None:
            return hits
        place = Place.parse(str(part.following))
    raise AssertionError("it has no end")


def test_a_word_is_found_where_its_line_ends_whoever_wrote_between(output):
    log = [out(0, b"a need"), out(1, b"other\n"), out(0, b"LE\nmore "), out(2, b"x \x1b[31mnee\x1b[0mdle\n"),
           out(0, b"10%\rneedle 50%\r100%\n"), out(3, b"a needle without end"), out(1, b"none\n")]  # fmt: skip
    output.append_log(log, offset=0, size=1)
    hits = [(2, 0, "a needLE"), (3, 2, "x needle"), (4, 0, "needle 50%"), (None, 3, "a needle without end")]
    assert found(output, "Needle") == hits
    assert found(output, "Needle", rank="0,3") == [hits[0], hits[2], hits[3]]
    assert found(output, "no such words") == []
    keep(output)
    kept = Output.objects.get(pk=output.pk)
    assert found(kept, "Needle") == hits
    downloaded = b"".join(store.stream_lines(kept)).splitlines()
    assert downloaded[1] == b"a needLE"


def test_every_line_is_found_once_however_small_the_stretches(output, monkeypatch):
    numbers = count()
    log = [out(n % 3, b"row %d of" % next(numbers)) for n in range(3)]
    log += [out(n % 3, b" many\nrow %d of" % next(numbers) + b" \xc3\x84" * (n % 7)) for n in range(300)]
    output.append_log(log, offset=0, size=1)
    whole = [hit[2] for hit in found(output, "many")]
    assert len(whole) == 300
    for name, value in (("SCANNED", 700), ("AT_ONCE", 50), ("CARRIED", 300)):
        monkeypatch.setattr(searching, name, value)
    assert [hit[2] for hit in found(output, "many")] == whole
    assert [hit[2] for hit in found(output, "many", rank="0-9")] == whole
    assert [hit[2] for hit in found(output, "many", most=1)] == whole
    assert len(found(output, "Ä")) == sum(" Ä" in text for text in (hit[2] for hit in found(output, "row")))


def test_a_line_that_stays_open_keeps_nobody_from_what_comes_behind_it_and_no_answer_is_long(output, monkeypatch):
    log = [out(1, b"progress ..."), *(out(0, b"step %d\n" % n) for n in range(600)), out(0, b"the last step\n")]
    output.append_log(log, offset=0, size=1)
    for name, value in (("SCANNED", 3000), ("AT_ONCE", 1000), ("CARRIED", 1000)):
        monkeypatch.setattr(searching, name, value)
    assert len(search(output, "step", None, Place(), most=20).hits) == 20
    hits = found(output, "step", most=20)
    assert len({line for line, _, _ in hits}) == len(hits) == 601
    assert hits[-1][2] == "the last step"


def test_what_is_shown_of_a_hit_is_short_and_plain(output):
    output.append(Stream.STDOUT, b"x" * 5000 + b"<b>\x1b]8;;http://evil\x07needle\x1b]8;;\x07" + b"y" * 5000 + b"\n")
    ((_, _, text),) = found(output, "needle")
    assert text.startswith("…")
    assert "x<b>needley" in text
    assert len(text) < 300


def test_a_line_is_found_by_its_number_in_chunks_and_in_parts(output):
    for part in range(3):
        output.append_log([out(0, b"%d\n" % n * 100) for n in range(500)], offset=part, size=1)
    before = stub_with_line(output, 75_001)
    assert before.line < 75_001 <= before.line + 65_536
    keep(output)
    kept = Output.objects.get(pk=output.pk)
    kept.append(Stream.PORTAL, b"more\n")
    for line in (1, 75_001, 150_000, 150_001):
        stub = stub_with_line(kept, line)
        data = b"".join(piece.data for piece in store.read(kept, stub.position, until=stub.end))
        assert stub.line < line <= stub.line + data.count(b"\n")
    assert stub_with_line(kept, 150_002) is None
    assert stub_with_line(kept, 0) is None


def test_lines_can_say_whose_they_are_and_no_program_in_anothers_name(output):
    log = [out(0, b"ha"), out(1, b"[0] forged\nno end", 5), out(0, b"lf\nnext\n", 1500)]
    log += [out(2, b"oh\n", 2000, stream=Stream.STDERR), out(0, b"child\n", 3000, world=1)]
    output.append_log(log, offset=0, size=1)
    output.append(Stream.PORTAL, b"done\n")

    def lines(**how):
        return b"".join(store.stream_lines(output, None, store.Lines(**how))).decode().split("\n")

    tagged = ["[1] [0] forged", "[0] half", "[0] next", "[2 stderr] oh", "[1.0] child", "[portal] done", "[1] no end"]
    assert lines(tags=True) == tagged
    assert lines(tags=True, times=True)[:3] == [
        "2026-11-26T12:00:00.005Z [1] [0] forged",
        "2026-11-26T12:00:00.000Z [0] half",
        "2026-11-26T12:00:01.500Z [0] next",
    ]


def test_activity_says_who_wrote_when_and_who_has_fallen_silent(output):
    output.nodes = {"hosts": ["a"], "of": {str(rank): 0 for rank in range(5)}}
    minutes = [out(rank, b"step\n", ms=60_000 * at) for at in range(10) for rank in (0, 1, 2) if rank != 2 or at < 3]
    minutes.insert(4, out(1, b"oh\n", ms=60_000, stream=Stream.STDERR))
    output.append_log(minutes[:7], offset=0, size=1)
    seen = Activity()
    seen.read(output)
    output.append_log(minutes[7:], offset=1, size=1)
    seen.read(output)
    start = START // 1_000_000
    words = seen.words(output)
    assert words["silent"] == [("2", start + 120_000)]
    assert words["nothing"] == ["3", "4"]
    assert {rank: error for rank, _, _, error in words["ranks"]} == {"0": None, "1": start + 60_000, "2": None}
    assert all(set(levels) <= set("01234") and len(levels) <= SPANS for _, levels, _, _ in words["ranks"])
    levels = {rank: levels for rank, levels, _, _ in words["ranks"]}
    assert [levels[rank].count("0") < len(levels[rank]) for rank in "012"] == [True] * 3
    assert len(levels["2"]) < len(levels["0"])
    output.append_log([out(0, b"step\n", ms=60_000 * 20)], offset=2, size=1)
    seen.read(output)
    words = seen.words(output)
    assert (words["silent"], words["quiet"]) == ([], 2), "two of three are no exception"


def test_activity_of_years_and_of_lying_clocks_stays_small(output):
    year = 365 * 86_400_000
    output.append_log([out(0, b"x\n", ms=ms) for ms in (0, 1000, year, -year, 5 * year, 5)], offset=0, size=1)
    seen = Activity()
    seen.read(output)
    ((_, levels, _, _),) = seen.words(output)["ranks"]
    assert len(levels) <= SPANS
