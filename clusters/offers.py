"""What clouds offer, for pages: asked in a thread beside them, kept for a while, and waited for only so long.

A list of 1,400 instance types takes a cloud many seconds, and one that hangs takes a minute. Of clouds that are far,
all of it is rows, which the watch process reads anew: see `workspaces.listings`. What others answered is kept by the
process, beside the account that was asked: where its configuration changes, that is another account.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from django.utils.timezone import now

from portal.clouds import Account, Can, InstanceType, Offer, Zone
from portal.errors import Passing, PortalError, Refused
from workspaces import listings
from workspaces.models import CloudConfig, Listing, Workspace

T = TypeVar("T")
logger = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds that a page waits for a cloud
LISTS = 300.0  # seconds after which a list is asked for anew
OLDEST = 86_400.0  # seconds for which an old list is shown meanwhile
OFFERS = 15.0  # seconds for which a price and a quota are taken for true
CHANGING = 1.0  # seconds for which anything is taken for true where nodes are taken, and others take them too
ERRORS = 5.0  # seconds after which a cloud that could not answer is asked again
MOST_KEPT = 300  # answers of an account, of those that are not of use any more
MOST_AT_ONCE = 16  # questions of this process; each may take a minute

_guard = threading.Lock()
_kept: WeakKeyDictionary[Account, dict[Hashable, _Question[Any]]] = WeakKeyDictionary()
_read: dict[int, tuple[datetime | None, Catalogue]] = {}  # of rows, by when they were written
_threads = threading.BoundedSemaphore(MOST_AT_ONCE)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What was answered, or why nothing was. There may be both: an old answer, and why there is no newer one."""

    value: T | None = None
    age: timedelta | None = None
    trouble: PortalError | None = None
    is_coming: bool = False  # the cloud is still being asked


class _Question(Generic[T]):
    """Asked by one thread at a time. It must not hold on to the account, beside which it is kept."""

    def __init__(self, oldest: float) -> None:
        self.oldest = oldest  # seconds for which its answer is of use
        self.value: T | None = None
        self.error: Exception | None = None  # of the last try
        self.read = self.tried = float("-inf")  # when there was a value, and when the last try ended
        self.done: threading.Event | None = None  # set when the try that is under way has ended

    @property
    def is_useless(self) -> bool:
        return self.done is None and time.monotonic() - self.tried > self.oldest

    def ask(self, call: Callable[[], T], fresh: float) -> bool:
        """Have it asked, where that is due. False where the process asks too much already. Holds `_guard`."""
        now = time.monotonic()
        rest = ERRORS if self.error else fresh
        if self.done or now - self.tried < rest:
            return True
        if not _threads.acquire(blocking=False):
            return False
        self.done = threading.Event()
        threading.Thread(target=self._try, args=(call, self.done), name="offers", daemon=True).start()
        return True

    def _try(self, call: Callable[[], T], done: threading.Event) -> None:
        value, error = None, None
        try:
            value = call()
        except Exception as raised:  # noqa: BLE001 (it is raised, or said, where it is waited for)
            error = raised
        finally:
            _threads.release()
        with _guard:
            self.tried = time.monotonic()
            self.error = error
            if error is None:
                self.value, self.read = value, self.tried
            elif isinstance(error, Refused):
                self.value = None  # what was true before it was refused is not
            self.done = None
        done.set()


def _ask(
    workspace: Workspace,
    what: Hashable,
    call: Callable[[Account], T],
    *,
    fresh: float,
    oldest: float,
) -> Answer[T]:
    """Raises what is no `PortalError`."""
    if Can.MAKE not in workspace.can:
        fresh = oldest = CHANGING
    try:
        account = workspace.cloud_config.account
    except PortalError as error:
        return Answer(trouble=error)
    with _guard:
        kept = _kept.setdefault(account, {})
        question: _Question[T] = kept.setdefault((workspace.region, what), _Question(oldest))
        if len(kept) > MOST_KEPT:
            useless = [key for key, one in kept.items() if one is not question and one.is_useless]
            for key in useless:
                del kept[key]
        asked = question.ask(lambda: call(account), fresh)
        done, is_old = question.done, time.monotonic() - question.read > oldest
    if done and (question.value is None or is_old):
        done.wait(PATIENCE)
    with _guard:
        age = time.monotonic() - question.read
        value = question.value if age <= oldest else None
        failed, is_coming = question.error, question.done is not None
    if failed is not None and not isinstance(failed, PortalError):
        raise failed
    trouble = failed
    if value is None and is_coming:
        trouble = Passing(f"The cloud has not answered within {PATIENCE:.0f} seconds.", code="slow")
    elif value is None and not asked:
        trouble = Passing("The cloud is being asked many other things just now.", advice="Try again in a moment.")
    return Answer(value, timedelta(seconds=age) if value is not None else None, trouble, is_coming)


class Catalogue:
    """The instance types of a region: by family, those with a quick network first; in a family, smallest first."""

    def __init__(self, types: Iterable[InstanceType]) -> None:
        found = list(types)
        quick = {one.family for one in found if one.accelerated_network}
        self.types = sorted(found, key=lambda one: (one.family not in quick, one.family, one.cores, one.memory_gib))
        self.named = {one.name: one for one in found}
        self.architectures = sorted({one.architecture for one in found})

    def find(
        self, words: str = "", *, cores: int = 0, memory_gib: float = 0, quick: bool = False, architecture: str = ""
    ) -> list[InstanceType]:
        """Those whose name or family has each of the words, with at least so much of the rest."""
        wanted = words.lower().split()
        return [
            one
            for one in self.types
            if one.cores >= cores
            and one.memory_gib >= memory_gib
            and (one.accelerated_network or not quick)
            and architecture in ("", one.architecture)
            and all(word in f"{one.name} {one.family}".lower() for word in wanted)
        ]

    def nearest(self, cores: int, memory_gib: float) -> InstanceType | None:
        """The one that has about so many cores and so much memory; of equals the cheapest."""
        return min(
            self.types,
            key=lambda one: (
                max(one.cores / cores, cores / one.cores)
                * max(one.memory_gib / memory_gib, memory_gib / one.memory_gib),
                one.hourly_price if one.hourly_price is not None else 0,
                one.name,
            ),
            default=None,
        )


def catalogue(workspace: Workspace) -> Answer[Catalogue]:
    """What may be had in the workspace's region."""
    region = workspace.region
    if workspace.cloud_config.kind in CloudConfig.FAR:
        return _kept_in(workspace.listing, _catalogue_of)
    return _ask(
        workspace,
        "types",
        lambda account: Catalogue(account.instance_types(region)),
        fresh=LISTS,
        oldest=OLDEST,
    )


def _kept_in(listing: Listing | None, read: Callable[[Listing], T]) -> Answer[T]:
    """Of a row. Nobody waits for what is not in it yet."""
    if listing is None or not (listing.read or listing.trouble):
        return Answer(trouble=Passing("The cloud is being asked what there is.", code="slow"), is_coming=True)
    known = dict(listing.trouble)
    trouble = Passing(known.pop("message"), **known) if known else None
    age = now() - listing.read if listing.read else None
    if age is None or age > timedelta(seconds=OLDEST):
        return Answer(trouble=trouble)
    return Answer(read(listing), age, trouble)


def _catalogue_of(listing: Listing) -> Catalogue:
    with _guard:
        known = _read.get(listing.pk)
    if known is None or known[0] != listing.read:
        known = listing.read, Catalogue(listings.types(listing))
        with _guard:
            _read[listing.pk] = known
    return known[1]


def _offer_of(listing: Listing, instance_type: str, nodes: int, zone: str, *, spot: bool) -> Offer:
    kind = _catalogue_of(listing).named.get(instance_type)
    if kind is None:
        return Offer(None, impossible=f"{instance_type} cannot be had in {listing.region}.")
    return listings.offer(listing, kind, nodes, zone=zone, spot=spot)


def zones(workspace: Workspace) -> Answer[list[Zone]]:
    region = workspace.region
    if workspace.cloud_config.kind in CloudConfig.FAR:
        return _kept_in(workspace.listing, listings.zones)
    return _ask(workspace, "zones", lambda account: account.cloud(region).zones(), fresh=LISTS, oldest=OLDEST)


def offer(workspace: Workspace, instance_type: str, nodes: int, *, zone: str = "", spot: bool = False) -> Answer[Offer]:
    """What so many nodes would cost, and what stands in the way."""
    region = workspace.region
    if workspace.cloud_config.kind in CloudConfig.FAR:
        return _kept_in(workspace.listing, lambda listing: _offer_of(listing, instance_type, nodes, zone, spot=spot))
    return _ask(
        workspace,
        ("offer", instance_type, nodes, zone, spot),
        lambda account: account.cloud(region).offer(instance_type, nodes, zone=zone, spot=spot),
        fresh=OFFERS,
        oldest=OFFERS,
    )
