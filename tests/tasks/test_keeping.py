"""Keeping outputs: no byte is lost, doubled or left behind, whoever does it at once and whoever dies."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import pytest
from django.utils.timezone import now

from portal.tasks import keeping
from portal.tasks import output as store
from portal.tasks.keeping import compact, drop_unfinished
from portal.tasks.outputs import Output, Part, Stream
from tests.running import until
from tests.tasks.test_output import out

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


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(Output, "CHUNK", 64)
    monkeypatch.setattr(keeping, "PART", 256)
    monkeypatch.setattr(keeping, "AT_ONCE", 3)


@pytest.fixture
def objects(settings, tmp_path):
    """The folder of the store, empty."""
    settings.STORAGES = {
        **settings.STORAGES,
        "outputs": {"BACKEND": "portal.tasks.stores.Folder", "OPTIONS": {"location": tmp_path}},
    }
    return lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


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
                compact(again(output))
        assert whole(output) == expected
    compact(again(output))
    unfinished = Part.objects.filter(size=0)
    assert unfinished.exists() == name.startswith(("output.part.begun", "output.part.written"))
    unfinished.update(begun=now() - timedelta(hours=2))
    drop_unfinished()
    assert not Part.objects.filter(size__lte=0).exists()
    is_right(output, expected, objects)


def test_an_object_that_is_still_being_written_is_left_alone(output, objects, monkeypatch):
    output.append(Stream.STDOUT, b"precious\n")

    def sweep(point):
        if point == "output.part.written":
            drop_unfinished()

    monkeypatch.setattr(keeping, "failpoint", sweep)
    compact(output)
    is_right(output, b"precious\n", objects)


def test_an_object_that_is_taken_for_left_over_never_becomes_a_part(output, objects, monkeypatch):
    output.append(Stream.STDOUT, b"precious\n")
    swept = []

    def sweep(point):
        if point == "output.part.written" and not swept:
            swept.append(Part.objects.update(begun=now() - timedelta(hours=2)))
            drop_unfinished()

    monkeypatch.setattr(keeping, "failpoint", sweep)
    compact(output)
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
        compact(again(output))
    end(output)
    row = again(output)
    assert set(FAILPOINTS) <= set(points)
    assert (row.is_kept, row.kept < row.head, row.keep_at is None) == (False, True, False)
    assert b"".join(store.stream_bytes(row)) == b"one\n" * 100 + b"".join(b"said at %s\n" % p.encode() for p in points)
    expected = whole(output)
    compact(row)
    is_right(output, expected, objects)
    assert again(output).is_kept


def test_an_output_that_is_reopened_is_live_again_and_kept_whole_in_the_end(
    output, objects, rings, django_capture_on_commit_callbacks
):
    output.append(Stream.PORTAL, b"first try\n")
    end(output)
    compact(again(output))
    assert again(output).is_kept
    with django_capture_on_commit_callbacks(execute=True):
        again(output).reopen()
    until(lambda: output.live_name in rings, what="the doorbell")
    again(output).append(Stream.PORTAL, b"second try\n")
    row = again(output)
    assert (row.ended, row.is_kept) == (False, False)
    end(output)
    assert not again(output).is_kept
    compact(again(output))
    assert again(output).is_kept
    is_right(output, b"first try\nsecond try\n", objects)
