"""Small charts of how busy nodes are, drawn by the server: a line beside its number, which is what counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clusters.models import Node
from clusters.samples import EVERY, Sample

WIDTH, HEIGHT = 88.0, 22.0  # of the drawing; the page makes it as large as it likes
POINTS = 60
STALE = 2.5 * EVERY  # seconds after which a sample says nothing of now


@dataclass(frozen=True)
class Chart:
    """`lines` are points for polylines: where samples are missing, there is a gap and no line over it."""

    now: str
    label: str
    lines: tuple[str, ...] = ()
    is_high: bool = False


@dataclass(frozen=True)
class NodeRow:
    """A node with its charts; none where nothing is known of it."""

    node: Node
    cpu: Chart | None = None
    memory: Chart | None = None
    network: Chart | None = None


def row(node: Node, samples: Sequence[Sample], *, now: float, seconds: float, period: str) -> NodeRow:
    """What the samples of the last `seconds` (`period`, in words) say."""
    if not samples:
        return NodeRow(node)
    last = samples[-1]
    known = now - last.at <= STALE
    each = _thinned(samples, seconds)
    gap = 2.5 * max(EVERY, seconds / POINTS)

    def chart(words: str, say: Callable[[Sample], str], value: Callable[[Sample], float], top: float) -> Chart:
        low, high = min(samples, key=value), max(samples, key=value)
        at_last = f"{say(last)} now" if known else "not known now"
        label = f"{words} of {node.hostname}: {at_last}, {say(low)} to {say(high)} in {period}"
        lines = _lines(each, value, top, start=now - seconds, seconds=seconds, gap=gap)
        return Chart(say(last) if known else "", label, lines, value(last) > 0.9 * top and words == "Memory")

    most = last.total or max(sample.used for sample in samples) * 1.25 or 1
    network = None
    if last.received is not None and last.sent is not None:
        network = chart("Network", _in_and_out, _traffic, max(map(_traffic, samples)) or 1)
    return NodeRow(
        node,
        chart("CPU", lambda sample: f"{sample.cpu:.0%}", lambda sample: sample.cpu, 1),
        chart("Memory", _memory, lambda sample: sample.used, most),
        network,
    )


def _thinned(samples: Sequence[Sample], seconds: float) -> Sequence[Sample]:
    """As many as there are points: of a longer time, the last one of each while."""
    every = max(1, round(seconds / EVERY / POINTS))
    return samples[::-1][::every][::-1]


def _lines(
    samples: Sequence[Sample],
    value: Callable[[Sample], float],
    top: float,
    *,
    start: float,
    seconds: float,
    gap: float,
) -> tuple[str, ...]:
    found: list[list[str]] = []
    before = float("-inf")
    for sample in samples:
        if sample.at - before > gap:
            found.append([])
        before = sample.at
        x = WIDTH * min(1.0, max(0.0, (sample.at - start) / seconds))
        y = HEIGHT - 1 - (HEIGHT - 2) * min(1.0, max(0.0, value(sample) / top))
        found[-1].append(f"{x:.1f},{y:.1f}")
    return tuple(" ".join(points) for points in found if len(points) > 1)


def _traffic(sample: Sample) -> float:
    return (sample.received or 0) + (sample.sent or 0)


def _in_and_out(sample: Sample) -> str:
    return f"{_kib(sample.received or 0)} in, {_kib(sample.sent or 0)} out"


def _memory(sample: Sample) -> str:
    return _mib(sample.used) if sample.total is None else f"{_mib(sample.used)} of {_mib(sample.total)}"


def _mib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1000 else f"{mib} MiB"


def _kib(kib: int) -> str:
    return f"{kib / 1024:.1f} MiB/s" if kib >= 1000 else f"{kib} KiB/s"
