"""Several who keep one output at once, in threads and processes, while more is appended, and one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils.timezone import now

from portal.tasks import keeping
from portal.tasks.keeping import drop_unfinished, join_small, keep, keep_due
from portal.tasks.outputs import Output, Part, Stream
from tests.running import ROOT
from tests.tasks.test_keeping import FAILPOINTS, again, end, is_right, whole
from tests.tasks.test_output import out

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rings")]


@pytest.fixture
def output(db):
    output = Output.objects.create()
    log = [out(n % 3, b"line %d\n" % n, stream=Stream(1 + n % 2)) for n in range(100)]
    output.append_log(log, offset=0, size=1)
    end(output)
    return output


class Several:
    """Threads whose faults are the test's."""

    def __init__(self):
        self.threads, self.faults = [], []

    def start(self, do, *args):
        def call():
            try:
                do(*args)
            except BaseException as error:  # noqa: BLE001 (the test's thread raises it)
                self.faults.append(error)
            finally:
                connections.close_all()

        self.threads.append(threading.Thread(target=call, name=do.__name__))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.faults == []


@pytest.mark.parametrize("name", FAILPOINTS)
def test_one_waits_at_a_point_while_another_keeps_all_and_more_comes(output, objects, small_parts, monkeypatch, name):
    waits, goes_on = threading.Event(), threading.Event()

    def failpoint(point):
        if point == name and threading.current_thread().name == "slow" and not waits.is_set():
            waits.set()
            assert goes_on.wait(30)

    def slow():
        keep(again(output))

    monkeypatch.setattr(keeping, "failpoint", failpoint)
    several = Several()
    several.start(slow)
    assert waits.wait(30)
    keep(again(output))
    again(output).append(Stream.PORTAL, b"said meanwhile\n" * 20)
    expected = whole(output)
    goes_on.set()
    several.join()
    assert whole(output) == expected
    keep(again(output))
    is_right(output, expected, objects)


def test_many_keep_and_join_while_somebody_writes_and_somebody_reads(output, objects, small_parts, monkeypatch):
    monkeypatch.setattr(keeping, "MANY", 5)
    Output.objects.filter(pk=output.pk).update(ended=False)
    before, over = whole(output), threading.Event()

    def write():
        for n in range(150):
            again(output).append_log([out(n % 3, b"more %d\n" % n)], offset=1 + n, size=1)
        over.set()

    def keep_on():
        while not over.is_set():
            keep(again(output))

    def join():
        while not over.is_set():
            join_small(again(output))
            keep_due(threading.Event())

    def read():
        while not over.is_set():
            row = again(output)
            found = whole(row)
            assert found.startswith(before)
            assert expected.startswith(found)

    expected = before + b"".join(b"more %d\n" % n for n in range(150))
    several = Several()
    for do in (write, keep_on, keep_on, join, read, read):
        several.start(do)
    several.join()
    end(output)
    keep(again(output))
    is_right(output, expected, objects)


def keeper(output, folder, failpoints):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tasks.keeper", str(connection.settings_dict["NAME"]), folder, str(output.pk)],
        cwd=ROOT,
        env={**os.environ, "PORTAL_FAILPOINTS": str(failpoints)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", FAILPOINTS)
def test_one_process_is_killed_at_a_point_and_another_goes_on(
    output, objects, small_parts, tmp_path_factory, tmp_path, name
):
    points = tmp_path_factory.mktemp("points")
    expected = whole(output)
    killed, other = keeper(output, str(tmp_path), points), keeper(output, str(tmp_path), points)
    try:
        for process in (killed, other):
            assert process.stdout.readline() == "ready\n"
        (points / name).touch()
        killed.stdin.write("go\n")
        killed.stdin.flush()
        assert killed.wait(60) == -signal.SIGKILL
        assert whole(output) == expected
        again(output).append(Stream.PORTAL, b"said meanwhile\n")
        other.stdin.write("go\n")
        other.stdin.flush()
        assert other.wait(60) == 0
    finally:
        for process in (killed, other):
            process.kill()
            process.communicate()
    Part.objects.filter(size=0).update(begun=now() - timedelta(hours=2))
    drop_unfinished()
    is_right(output, expected + b"said meanwhile\n", objects)
