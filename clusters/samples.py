"""How busy nodes are: counted by their own kernels, asked for with every second ping, kept for an hour.

What is kept lies in Redis, because a lost hour of it harms nobody: 22 bytes a sample, 8 KiB a node. A node's answer is
not ours to trust: it is one short line of numbers, or nothing.
"""

from __future__ import annotations

import logging
import re
import shlex
import struct
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import redis
from django.conf import settings

from clusters.models import Node
from portal import ssh

logger = logging.getLogger(__name__)

EVERY = 10.0  # seconds
KEPT = 3600  # seconds
MOST_ANSWER = 4096  # bytes that a node may say to a ping
TICKS = 100  # a second: in what Linux tells programs, it is the same on all machines
ANSWER_WITHIN = 1.0  # seconds that a page waits for Redis

# Of built-ins alone: nothing is started for it but this shell. A node that shares its kernel with others has counted
# for itself already; there the machine's numbers would be wrong.
_SCRIPT = """
exec 2>/dev/null
[ -z "$COXSWAIN_COUNTS" ] || { echo "$COXSWAIN_COUNTS"; exit 0; }
read -r x a b c d e f g h x </proc/stat
while read -r key value x; do
  case $key in MemTotal:) total=$value;; MemAvailable:) used=$((total-value));; esac
done </proc/meminfo
in=0 out=0
while IFS=' :' read -r key p q r s t u v w y x; do
  case $key in lo|face|*'|'*|docker*|veth*|br-*|virbr*) ;; *) in=$((in+p)) out=$((out+y));; esac
done </proc/net/dev
echo "$((a+b+c+f+g+h)) $((a+b+c+d+e+f+g+h)) $used $total $in $out"
exit 0
"""
# Both say how many people are signed in on the node, or nothing where it does not know. The counts are another line.
_GUESTS = 'printf %s "${COXSWAIN_GUESTS-}"'
PING = ssh.Command(_GUESTS, env=(("COXSWAIN_ASK_GUESTS", "1"),))
COUNT = ssh.Command(f"{_GUESTS}; echo; exec sh -c {shlex.quote(_SCRIPT)}", env=(*PING.env, ("COXSWAIN_COUNT", "1")))
_NUMBER = rb"([0-9]{1,19}|-)"
_ANSWER = re.compile(rb"([0-9]{1,19}) " + _NUMBER + rb" ([0-9]{1,19}) " + b" ".join([_NUMBER] * 3) + rb"\n")
_UNKNOWN = 2**32 - 1
_FORM = struct.Struct("<IHIIII")


class Sample(NamedTuple):
    """Of a node at one moment. `cpu` is a part of all its cores; memory is in MiB, network in KiB a second."""

    at: float  # seconds since 1970
    cpu: float
    used: int
    total: int | None  # None: nobody says how much there is
    received: int | None  # None: it has no network of its own
    sent: int | None

    @property
    def packed(self) -> bytes:
        rest = (self.used, self.total, self.received, self.sent)
        bounded = (_UNKNOWN if value is None else min(value, _UNKNOWN - 1) for value in rest)
        return _FORM.pack(int(self.at), round(self.cpu * 1000), *bounded)

    @classmethod
    def unpacked(cls, data: bytes) -> Sample:
        at, cpu, used, *rest = _FORM.unpack(data)
        total, received, sent = (None if value == _UNKNOWN else value for value in rest)
        return cls(at, cpu / 1000, used, total, received, sent)


@dataclass(frozen=True)
class _Counts:
    """What a node has counted since it began, but for `used` and `total`, which are KiB of memory."""

    at: float  # by our own clock, which does not jump
    busy: int
    whole: int | None
    used: int
    total: int | None
    received: int | None
    sent: int | None

    @classmethod
    def of(cls, said: bytes) -> _Counts | None:
        found = _ANSWER.fullmatch(said)
        if found is None:
            return None
        busy, whole, used, *rest = (None if word == b"-" else int(word) for word in found.groups())
        return cls(time.monotonic(), busy or 0, whole, used or 0, *rest)

    def since(self, before: _Counts, cores: int) -> Sample:
        """What it has done between the two; whatever it says, within what can be."""
        seconds = self.at - before.at
        busy = self.busy - before.busy
        if self.whole is not None and before.whole is not None and self.whole > before.whole:
            cpu = busy / (self.whole - before.whole)
        else:
            cpu = busy / TICKS / seconds / cores

        def rate(now: int | None, then: int | None) -> int | None:
            return None if now is None or then is None else max(0, round((now - then) / 1024 / seconds))

        return Sample(
            time.time(),
            min(1.0, max(0.0, cpu)),
            self.used // 1024,
            None if self.total is None else self.total // 1024,
            rate(self.received, before.received),
            rate(self.sent, before.sent),
        )


class Samples:
    """Those of the nodes that a watch process looks after: what each has counted last, and what is to be kept."""

    def __init__(self) -> None:
        self._last: dict[int, _Counts] = {}
        self._asked: dict[int, float] = {}
        self._new: dict[int, Sample] = {}

    def command(self, node: Node) -> ssh.Command:
        """What to run as a ping: with the counts, when it is time for them."""
        at = time.monotonic()
        if at - self._asked.get(node.pk, float("-inf")) < EVERY * 0.75:
            return PING
        self._asked[node.pk] = at
        return COUNT

    def take(self, node: Node, said: bytes) -> None:
        """What a node has answered. Something else than a line of numbers is no sample."""
        counts = _Counts.of(said)
        if counts is None:
            return
        before, self._last[node.pk] = self._last.get(node.pk), counts
        if before is not None and 1 < counts.at - before.at < KEPT:
            self._new[node.pk] = counts.since(before, node.cluster.cores_per_node)

    def keep(self) -> None:
        """Write down what is new, in one go. Waits for Redis. Without Redis it is lost."""
        new, self._new = self._new, {}
        at = time.monotonic()
        # A copy of the whole, because nodes are asked meanwhile: to make a list lets other threads go on in the middle,
        # when garbage is collected then. What is old is gone, or another process's.
        for pk in [pk for pk, asked in self._asked.copy().items() if at - asked > 60]:
            self._asked.pop(pk)
            self._last.pop(pk, None)
        if not new:
            return
        try:
            with _redis().pipeline(transaction=False) as pipe:
                for pk, sample in new.items():
                    pipe.rpush(_key(pk), sample.packed)
                    pipe.ltrim(_key(pk), -int(KEPT / EVERY), -1)
                    pipe.expire(_key(pk), KEPT)
                pipe.execute()
        except redis.RedisError as error:
            logger.warning("how busy nodes are could not be kept: %s", error)


def of(nodes: Collection[int], seconds: float) -> dict[int, list[Sample]]:
    """The samples of these nodes (primary keys) in the last so many seconds, oldest first. Nothing without Redis."""
    if not nodes:
        return {}
    try:
        with _redis().pipeline(transaction=False) as pipe:
            for pk in nodes:
                pipe.lrange(_key(pk), -int(seconds / EVERY) - 1, -1)
            found: Iterable[list[bytes]] = pipe.execute()
    except redis.RedisError as error:
        logger.warning("how busy nodes are cannot be read: %s", error)
        return {}
    since = time.time() - seconds
    return {
        pk: [sample for sample in map(Sample.unpacked, data) if sample.at >= since]
        for pk, data in zip(nodes, found, strict=True)
    }


def _key(pk: int) -> str:
    return f"{settings.REDIS_PREFIX}-samples-{pk}"


@lru_cache(maxsize=1)
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=ANSWER_WITHIN, socket_connect_timeout=ANSWER_WITHIN)
