import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.examples.programs import program

parts = program("flights/parts.py")

LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=30)


@given(lines=LINES, ranks=st.integers(1, 40), ends_well=st.booleans())
@example(lines=[], ranks=3, ends_well=True)
@example(lines=[b""], ranks=2, ends_well=True)
@example(lines=[b"a", b"bb"], ranks=6, ends_well=False)
def test_the_ranks_together_read_every_line_once_and_in_order(lines, ranks, ends_well):
    body = b"\n".join(lines) + (b"\n" if lines and ends_well else b"")
    content = b"carrier,hour\n" + body
    shares = [parts.part_of(io.BytesIO(content), len(content), rank, ranks) for rank in range(ranks)]
    assert b"".join(shares) == body
    for share in shares[:-1]:
        assert share == b"" or share.endswith(b"\n") or share == body[len(body) - len(share) :]


def test_a_share_is_about_as_large_as_the_others():
    content = b"header\n" + b"0123456789\n" * 6000
    sizes = [len(parts.part_of(io.BytesIO(content), len(content), rank, 6)) for rank in range(6)]
    assert max(sizes) - min(sizes) <= 22


def test_shares_add_up_key_by_key():
    one, other = {"carrier UA": (10, 2), "hour 5": (1, 1)}, {"carrier UA": (-4, 3), "carrier AA": (7, 1)}
    assert parts.add(one, other) == {"carrier UA": (6, 5), "hour 5": (1, 1), "carrier AA": (7, 1)}
    assert parts.add(one, {}) == one


def test_equal_answers_do_not_differ():
    assert parts.differences({"hour 5": (1 / 3, 9)}, {"hour 5": (1 / 3 + 1e-13, 9)}) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"hour 5": (2.0, 9)}, {"hour 5": (2.00001, 9)}, "hour 5: mean 2.0 of 9, but pandas says 2.00001 of 9"),
        ({"hour 5": (2.0, 8)}, {"hour 5": (2.0, 9)}, "hour 5: mean 2.0 of 8, but pandas says 2.0 of 9"),
        ({}, {"hour 5": (2.0, 9)}, "hour 5: only in theirs: (2.0, 9)"),
        ({"hour 5": (2.0, 9)}, {}, "hour 5: only in ours: (2.0, 9)"),
        ({"hour 5": (float("nan"), 9)}, {"hour 5": (2.0, 9)}, "hour 5: mean nan of 9, but pandas says 2.0 of 9"),
    ],
)
def test_a_difference_is_said(ours, theirs, said):
    assert parts.differences(ours, theirs) == [said]
