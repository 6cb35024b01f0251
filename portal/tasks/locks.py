"""Alone with a subject among all portals that share its account: by a lock in the account's store.

A portal's own database sees to it that one task of a subject goes on at a time; another portal's knows nothing of it.
The lock has the task for its owner, is taken by whichever worker goes on with it, and is renewed as long as one does.
A task that waits is nobody's, and so it is taken for a while longer then. Of a portal that died it runs out; of a task
that is over, and of which nobody can be at work any more, the next one of the same subject takes it at once.
"""

from __future__ import annotations

import logging
import threading
import time

from portal.clouds import Lock, Store
from portal.errors import Conflict, Passing, PortalError
from portal.models import installation
from portal.tasks.models import Task
from portal.text import uuid_in

logger = logging.getLogger(__name__)

TERM = 90.0  # seconds that a lock outlasts the last word of its owner
RENEW_EVERY = 20.0
MARGIN = 10.0  # seconds before its end in which it is not relied on any more


def lost(name: str) -> Conflict:
    return Conflict(
        "Another portal may work on this now, so this one has stopped.",
        evidence=f"The lock {name} of the cloud configuration's store was lost.",
        advice="Look which portals share this cloud configuration's account, and try again from one of them.",
    )


class NotAlone(Passing):
    """Somebody else has the lock; the message says who."""


def take(store: Store, name: str, task: Task, seconds: float) -> Lock:
    """The lock, for this task. Raises `NotAlone`, and `Passing` and `Refused` as stores do.

    At most one task of a subject is unfinished, so an earlier one is over, and has nobody at work; but for one that was
    broken off, whose worker may not have heard of it: `lease_until` is kept of that.
    """
    owner = _owner(task)
    lock = store.lock(name, owner=owner, seconds=seconds)
    if lock is None and (holder := store.holder(name)):
        portal, _, number = holder.owner.partition("/")
        if portal != installation():
            message = "Another portal that shares this cloud configuration's account works on it."
            raise NotAlone(message, evidence=holder.owner)
        before = task.subject.tasks.filter(uuid=uuid_in(number), pk__lt=task.pk).first()
        if before is None:
            raise NotAlone("A portal that has this one's id, and is not this one, works on it.", evidence=holder.owner)
        if before.lease_until is not None:
            until = f"until {holder.until:%H:%M:%S} UTC at the latest"
            message = f"“{before}” was broken off, and somebody may still be at work on it, {until}."
            raise NotAlone(message, evidence=holder.owner)
        lock = store.lock(name, owner=owner, seconds=seconds, over=holder.owner)
    if lock is None:
        raise NotAlone("Others have just taken the lock of this, or let go of it.", evidence=name)
    return lock


def _owner(task: Task) -> str:
    return f"{installation()}/{task.uuid}"


class Alone:
    """A lock that a worker has. `until` is of `time.monotonic`."""

    def __init__(self, store: Store, lock: Lock, until: float) -> None:
        self.store, self.lock = store, lock
        self._until = until
        self._turn = threading.Lock()  # of whoever asks the store: nobody takes it again when it is let go
        self._over = threading.Event()
        threading.Thread(target=self._go_on, name=f"lock-{lock.name}", daemon=True).start()

    @classmethod
    def take(cls, store: Store, name: str, task: Task) -> Alone:
        """It is renewed until `stop`. Raises as `take` does."""
        began = time.monotonic()
        return cls(store, take(store, name, task, TERM), began + TERM)

    def stop(self) -> None:
        """Renew it no more. That is not waited for: the store may take its time to answer."""
        self._over.set()

    def prove(self) -> None:
        """Raises `Conflict` when it is not ours any more, or nobody has said for too long that it is."""
        if time.monotonic() > self._until - MARGIN:
            raise lost(self.lock.name)

    def wait(self, seconds: float) -> None:
        """Nobody renews it for so long, and then somebody goes on, who may be half a term late for that."""
        self.stop()
        with self._turn:
            if time.monotonic() + seconds + TERM / 2 > self._until:
                self._renew(seconds + TERM)

    def release(self) -> None:
        """Let other portals have it. Where that cannot be said, it runs out."""
        self.stop()
        try:
            with self._turn:
                self.store.release(self.lock)
        except PortalError as error:
            logger.warning("the lock %s was not released: %s %s", self.lock.name, error.message, error.evidence)

    def _go_on(self) -> None:
        while not self._over.wait(RENEW_EVERY):
            with self._turn:
                if not self._over.is_set():
                    self._renew(TERM)

    def _renew(self, seconds: float) -> None:
        began = time.monotonic()
        try:
            lock = self.store.lock(self.lock.name, owner=self.lock.owner, seconds=seconds)
        except PortalError as error:
            logger.warning("the lock %s was not renewed: %s %s", self.lock.name, error.message, error.evidence)
            return
        if lock is None or lock.fence != self.lock.fence:
            logger.error("the lock %s was lost", self.lock.name)
            self._until = 0.0
        elif self._until:
            self._until = began + seconds
