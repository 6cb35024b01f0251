"""Which rank has written how much when: for a picture of a run, and to see who has fallen silent."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from uuid import UUID

from portal.tasks.blocks import Stub, outline, with_segments
from portal.tasks.outputs import ENTRY, NO_RANK, Output, Stream, rank_name

SPANS = 120  # of time, at most; in the picture they are columns
MOST_RANKS = 2000  # that are told apart
MOST_SEGMENTS = 400_000  # that one call reads, about
AT_ONCE = 64  # blocks
LEVELS = 4  # of how much was written in a span
SILENT = 60_000  # ms without output, while others wrote, after which a rank counts as silent
_KEPT = 64  # outputs of which a process remembers what it has read


@dataclass
class _Rank:
    sizes: list[int] = field(default_factory=list)  # bytes by span; spans after the last have none
    last: int = 0  # when it wrote last, in ms since 1970
    error: int | None = None  # when it wrote to stderr first

    def add(self, span: int, size: int) -> None:
        if span >= len(self.sizes):
            self.sizes += [0] * (span + 1 - len(self.sizes))
        self.sizes[span] += size


class Activity:
    """Of one output, as far as it was read. Time is cut into equal spans, which grow with it."""

    def __init__(self) -> None:
        self.position = 0
        self.start: int | None = None  # of the first span, in ms since 1970
        self.width = 1000  # of a span, in ms
        self.ranks: dict[tuple[int, int], _Rank] = {}
        self.lock = Lock()

    def read(self, output: Output) -> None:
        """What came since, but not more than a call should. Raises `Passing`, as `outline` does."""
        with self.lock:
            left = MOST_SEGMENTS
            while self.position < output.head and left > 0:
                page = with_segments(output, outline(output, self.position, output.head, AT_ONCE))
                left -= sum(len(stub.segments or b"") // ENTRY.size for stub in page)
                self._take(page)

    def _take(self, page: Sequence[Stub]) -> None:
        for stub in page:
            at, ms = stub.position, stub.ms
            for stream, world, rank, size, later in ENTRY.iter_unpack(stub.segments or b""):
                at += size
                if at > self.position and rank != NO_RANK:
                    self._add(stream, world, rank, min(size, at - self.position), ms + later)
            self.position = max(self.position, stub.end)

    def _add(self, stream: int, world: int, rank: int, size: int, ms: int) -> None:
        one = self.ranks.get((world, rank))
        if one is None:
            if len(self.ranks) == MOST_RANKS:
                return
            one = self.ranks[world, rank] = _Rank()
        if self.start is None:
            self.start = ms
        span = max(0, ms - self.start) // self.width  # clocks of nodes differ a little: the first need not be earliest
        while span >= SPANS:
            self.width *= 2
            span //= 2
            for other in self.ranks.values():
                other.sizes = [sum(other.sizes[n : n + 2]) for n in range(0, len(other.sizes), 2)]
        one.add(span, size)
        one.last = max(one.last, ms)
        if stream == Stream.STDERR and (one.error is None or ms < one.error):
            one.error = ms

    def words(self, output: Output) -> dict[str, Any]:
        """For a page: `ranks` as [name, levels by span, ms of its last output, ms of its first on stderr or null].

        Levels are a digit each, 0 to `LEVELS`, by the logarithm of the bytes. `silent`: [name, since] of those who have
        written nothing for `SILENT` while the others went on; `quiet`: how many of those who wrote that is, if they are
        too many to be the exception. `nothing`: names of ranks that have written nothing so far, as far as it is known
        which there are.
        """
        with self.lock:
            ranks = sorted(self.ranks.items())
            most = math.log1p(max((size for _, one in ranks for size in one.sizes), default=0)) or 1.0
            newest = max((one.last for _, one in ranks), default=0)
            silent = [(rank_name(*key), one.last) for key, one in ranks if newest - one.last > SILENT]
            written = {rank_name(*key) for key, _ in ranks}
            are_few = len(silent) * 2 <= len(ranks)
            return {
                "from": self.start,
                "width": self.width,
                "to": newest,
                "read": self.position,
                "head": output.head,
                "levels": LEVELS,
                "ranks": [[rank_name(*key), _levels(one.sizes, most), one.last, one.error] for key, one in ranks],
                "silent": silent if are_few else [],
                "quiet": 0 if are_few else len(silent),
                "nothing": [name for name in output.nodes.get("of", {}) if name not in written],
                "most": MOST_RANKS if len(ranks) == MOST_RANKS else 0,
            }


def _levels(sizes: Iterable[int], most: float) -> str:
    return "".join(str(math.ceil(math.log1p(size) / most * LEVELS)) for size in sizes)


_known: OrderedDict[UUID, Activity] = OrderedDict()
_lock = Lock()


def activity(output: Output) -> Activity:
    """What this process has read of it, and what is new; a large one takes some calls. Raises `Passing`."""
    with _lock:
        known = _known.setdefault(output.uuid, Activity())
        _known.move_to_end(output.uuid)
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    known.read(output)
    return known
