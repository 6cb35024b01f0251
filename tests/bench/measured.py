"""What a benchmark may call measured. Nothing at all would otherwise look like 0 ms, and pass each bar."""

from __future__ import annotations

import math


def samples(what, values, *, least):
    """The samples, sorted. Fails where there are too few, or where they are no times that can have passed."""
    values = list(values)
    assert len(values) >= least, f"{what}: measured {len(values)} times, and {least} are needed"
    odd = [value for value in values if not _is_number(value) or value < 0]
    assert not odd, f"{what}: {odd[0]!r} is no measurement"
    assert any(values), f"{what}: all {len(values)} measurements are 0: nothing was measured"
    return sorted(values)


def amount(what, value):
    """A single number that must be there to be compared with, or to be divided by."""
    assert _is_number(value), f"{what}: {value!r} is no measurement"
    assert value > 0, f"{what} is {value}: nothing was measured"
    return value


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percentile(values, part):
    """Of sorted samples."""
    return values[min(len(values) - 1, int(len(values) * part))]


def viewers(results, *, viewers, stalled=0, least):
    """What tests/bench/viewers.py has found: that each of them followed to the end, and saw lines as they came.

    The delays of all of them, sorted, in milliseconds.
    """
    assert results["ready"], f"only {results['caught_up']} of {viewers} viewers caught up before the lines began"
    assert results["errors"] == [], results["errors"]
    assert results["hung"] == 0, f"{results['hung']} of {viewers} viewers did not come to the end"
    assert results["open"] == viewers, f"{results['open']} of {viewers} viewers had a socket"
    assert results["wrong"] == 0, f"{results['wrong']} frames did not go on where the one before had ended"
    follow = viewers - stalled
    assert len(results["got"]) == follow, f"{len(results['got'])} of {follow} viewers came to the end"
    assert len(set(results["got"])) == 1, f"viewers got different amounts: {sorted(set(results['got']))}"
    assert len(results["late"]) == follow, "some viewers told of no delays"
    fewest = min((len(late) for late in results["late"]), default=0)
    assert fewest >= least, f"one viewer saw {fewest} frames while lines came, and {least} are needed"
    assert results["busy"] < 0.9, (
        f"the process of the viewers wanted a core {results['busy']:.0%} of the time: this machine is too small or too"
        " busy to be so many viewers, and the delays are their own"
    )
    return samples("the delays of viewers", [delay for late in results["late"] for delay in late], least=least)
