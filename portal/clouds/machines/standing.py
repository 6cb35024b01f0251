"""How a computer stands: what a check or a look at it means for its row and its history. Nobody is asked here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import QuerySet
from django.utils.timezone import now

from portal.clouds.machines import folders
from portal.clouds.machines.findings import Finding
from portal.clouds.machines.models import Computer, Event, Pool

AWAY_AFTER = timedelta(seconds=75)  # without an answer: what is slow for a minute is not away
MOST_EVENTS = 500  # of a computer
EVERY = timedelta(days=1)  # a pool is checked
SEEN_LOAD = 0.5  # by which a load must differ, so that open pages hear of it
BETWEEN = timedelta(minutes=1)  # after a check, until computers that are back or were started anew lead to another one
_COLUMNS = ("hostname", "cores", "vcpus", "memory_gib", "architecture", "boot_id", "load")


class Look(NamedTuple):
    """What a computer says when it is looked at."""

    boot_id: str
    load: float  # of the last minute
    marks: Collection[str] = ()  # clusters that have it, as it shows; see `folders.MARKS`


def due() -> QuerySet[Pool]:
    return Pool.objects.filter(check_due__lte=now())


def want_check(pool: Pool, *, somebody_waits: bool = False) -> None:
    """Have its computers checked soon. Asked for twice, they are checked once."""
    asked = {"check_asked": now()} if somebody_waits else {}
    Pool.objects.filter(pk=pool.pk).update(check_due=now(), **asked)


def want_check_again(pool: Pool) -> None:
    """Soon, and not one after the other where what leads to it is not changed by a check. Nobody waits for it."""
    due = max(now(), pool.checked + BETWEEN) if pool.checked else now()
    Pool.objects.filter(pk=pool.pk).exclude(check_due__lte=due).update(check_due=due)


@transaction.atomic
def write_down(pool: Pool, findings: Sequence[Finding], keys: Mapping[int, str]) -> None:
    """What a check has found. `keys`: the host keys that those show which show another one, by primary key."""
    rows = Pool.objects.filter(pk=pool.pk)
    if not rows.held().exists():
        return
    for finding in sorted(findings, key=lambda one: one.computer.pk):
        computer = _held(finding.computer)
        if computer is None:
            continue
        if finding.silence:
            _silent(computer, finding.silence)
        elif finding.another_key:
            _another_key(computer, finding, keys.get(computer.pk, ""))
        else:
            _found(computer, finding)
        computer.save()
    at = now()
    rows.update(checked=at)
    # Not where somebody has asked since this check began: that one is to come.
    rows.filter(check_due=pool.check_due).update(check_due=at + EVERY, check_asked=None)


def _held(computer: Computer) -> Computer | None:
    """Its row, locked; None where it was removed meanwhile, or another key of it was accepted."""
    return Computer.objects.held().filter(pk=computer.pk, host_public=computer.host_public).first()


def _silent(computer: Computer, words: str) -> None:
    # Twice, because nobody may have looked for as long: one answer that is late is no absence.
    is_long = bool(computer.silence) and computer.seen is not None and now() - computer.seen > AWAY_AFTER
    computer.silence = words[:300]
    if computer.state != Computer.State.AWAY and (computer.seen is None or is_long):
        computer.state = Computer.State.AWAY
        tell(computer, f"It does not answer: {words}")


def _another_key(computer: Computer, finding: Finding, shown: str) -> None:
    if shown != computer.host_shown or computer.state != Computer.State.REFUSED:
        tell(computer, "REFUSED: it shows another host key than the one that was confirmed.")
    computer.state = Computer.State.REFUSED
    computer.host_shown = shown
    computer.silence = ""
    computer.failing = finding.failing
    computer.facts = {**computer.facts, "lines": _lines(finding)}
    computer.checked = now()


def _lines(finding: Finding) -> list[dict[str, Any]]:
    """What failed first, and what is all right last."""
    return [asdict(line) for line in sorted(finding.lines, key=lambda line: (False, None, True).index(line.ok))]


def _found(computer: Computer, finding: Finding) -> None:
    before = Computer(pk=computer.pk, state=computer.state, failing=computer.failing)
    was = {name: getattr(computer, name) for name in _COLUMNS}
    for name in _COLUMNS:
        if name in finding.facts:
            setattr(computer, name, finding.facts[name])
    computer.facts = {**(finding.facts or computer.facts), "lines": _lines(finding)}
    computer.failing = finding.failing
    computer.host_shown = computer.silence = ""
    computer.checked = computer.seen = now()
    computer.state = Computer.State.REFUSED if computer.failing else Computer.State.READY
    if was["boot_id"] not in ("", computer.boot_id):
        tell(computer, "It was rebooted.")
    if was["cores"] and (was["cores"], was["architecture"]) != (computer.cores, computer.architecture):
        tell(computer, f"It has {computer.cores} cores now, {computer.architecture}; they were {was['cores']}.")
    _tell_state(before, computer)


def _tell_state(before: Computer, computer: Computer) -> None:
    messages = [one["message"] for one in computer.failing]
    is_changed = before.state != computer.state
    if computer.state == Computer.State.REFUSED:
        if is_changed or {one["name"] for one in before.failing} != {one["name"] for one in computer.failing}:
            tell(computer, f"REFUSED: {' '.join(messages)}")
    elif is_changed:
        words = {
            Computer.State.NEW: "It passed every check and is READY.",
            Computer.State.AWAY: "It answers again, and is READY.",
        }
        tell(computer, words.get(Computer.State(before.state), "It passes every check again and is READY."))


def tell(computer: Computer, words: str, subject: str = "") -> None:
    """One more line of its history, of which the last ones are kept: a computer may change its mind all the time."""
    Event.objects.create(
        computer=computer, words=words if len(words) <= 300 else f"{words[:299]}…", subject=subject or computer.subject
    )
    if oldest := computer.events.values_list("pk", flat=True)[MOST_EVENTS : MOST_EVENTS + 1]:
        computer.events.filter(pk__lte=oldest[0]).delete()


@transaction.atomic
def write_keys(shown: Mapping[int, str], silent: Mapping[int, str]) -> bool:
    """The keys that computers show which are to be confirmed, and why others show none. Whether anything is new."""
    changed = False
    for computer in Computer.objects.held().filter(pk__in=[*shown, *silent], host_public=""):
        before = computer.host_shown, computer.silence
        # One that does not answer just now keeps the key that it has shown: somebody may be comparing it.
        computer.host_shown = shown.get(computer.pk, computer.host_shown)
        computer.silence = silent.get(computer.pk, "")[:300]
        if before != (computer.host_shown, computer.silence):
            changed = True
            computer.save(update_fields=["host_shown", "silence"])
    return changed


def unknown(computer: Computer, marks: Collection[str]) -> str:
    """A cluster that has it, as it shows, and that never had it by a pool of this portal; empty where there is none."""
    left = set(marks) - {computer.subject}
    if left:
        left -= set(Computer.objects.filter(subject__in=left).values_list("subject", flat=True))
    if left:  # one that is just going, or has left something behind
        here = Event.objects.filter(computer__hostname=computer.hostname, computer__host_public=computer.host_public)
        left -= set(here.filter(subject__in=left).values_list("subject", flat=True))
    return min(left, default="")


@transaction.atomic
def write_looks(pool: Pool, answers: Mapping[int, Look], silent: Mapping[int, str]) -> bool:
    """What a look at some computers has shown: what those say that answered, why others did not.

    Those that have not answered for long enough are AWAY. One that is back, or was started anew, is to be checked.
    Whether anything has changed that people see.
    """
    changed = False
    held = Pool.objects.held().filter(pk=pool.pk).first()
    if held is None:
        return changed
    computers = list(Computer.objects.held().filter(pk__in=[*answers, *silent]))
    for computer in computers:
        before = computer.state, computer.silence, computer.marked
        if computer.pk in answers:
            boot_id, load, marks = answers[computer.pk]
            computer.marked = unknown(computer, marks)
            if computer.marked and not before[2]:
                tell(computer, f"Another portal has it: {folders.TEMPORARY}{computer.marked} is there.")
            changed |= computer.load is None or abs(computer.load - load) >= SEEN_LOAD
            computer.silence, computer.seen, computer.load = "", now(), load
            is_anew = computer.boot_id not in ("", boot_id)
            if is_anew:
                computer.boot_id = boot_id
                tell(computer, "It was rebooted.")
            if is_anew or computer.state == Computer.State.AWAY:
                want_check_again(held)
        else:
            _silent(computer, silent[computer.pk])
        changed |= before != (computer.state, computer.silence, computer.marked)
    Computer.objects.bulk_update(computers, ["state", "silence", "load", "seen", "boot_id", "marked"])
    return changed
