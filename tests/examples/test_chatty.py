import hashlib
import subprocess
import sys

import pytest

from tests.examples.programs import EXAMPLES, program

chatty = program("chatty/chatty.py")


def talk(*arguments):
    ended = subprocess.run([sys.executable, EXAMPLES / "chatty/chatty.py", *arguments], capture_output=True, check=True)
    *lines, end = ended.stdout.splitlines(keepends=True)
    return lines, ended.stderr.splitlines(keepends=True), end


@pytest.mark.parametrize("width", [20, 100, 5000])
def test_a_line_is_as_wide_as_asked_for(width):
    assert {len(chatty.line(3, sequence, width)) for sequence in (0, 9, 10, 99_999)} == {width}


def test_a_line_too_narrow_for_its_numbers_keeps_them():
    assert chatty.line(12, 345, 3) == b"r12 345 \n"


def test_every_line_comes_once_and_in_order_and_the_end_vouches_for_it():
    lines, errors, end = talk("--lines", "3000", "--width", "90")
    assert [line.split()[1] for line in lines] == [b"%d" % n for n in range(3000)]
    assert errors == []
    assert f"{90 * 3000} bytes to stdout, sha256 {hashlib.sha256(b''.join(lines)).hexdigest()}".encode() in end


def test_a_share_of_the_lines_goes_to_stderr_and_none_is_lost():
    lines, errors, _ = talk("--lines", "1000", "--stderr", "0.1")
    assert len(errors) == 100
    assert sorted(int(line.split()[1]) for line in lines + errors) == list(range(1000))


def test_a_rate_is_kept(monkeypatch):
    at, pauses, said = [0.0], [], bytearray()

    def sleep(seconds):
        pauses.append(seconds)
        at[0] += seconds

    monkeypatch.setattr(chatty.time, "monotonic", lambda: at[0])
    monkeypatch.setattr(chatty.time, "sleep", sleep)
    monkeypatch.setattr(chatty, "write_all", lambda descriptor, content: said.extend(content))
    chatty.talk(rank=0, count=21, width=30, share=0, rate=10)
    assert sum(pauses) == pytest.approx(2.0)
    assert said.count(b"\n") == 21
