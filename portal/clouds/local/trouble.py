"""Whatever this computer says against it, in words for people."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from portal.errors import Passing, PortalError, Refused


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Whatever the machine says leaves as a sentence."""
    try:
        yield
    except PortalError:
        raise
    except (ValueError, KeyError, TypeError) as exc:  # a record that we cannot read
        raise Refused("A record of this computer's nodes cannot be read.", evidence=str(exc)) from exc
    except OSError as exc:
        raise _sentence(exc) from exc


def _sentence(exc: OSError) -> PortalError:
    evidence = str(exc)
    match exc.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Refused("The disk of this computer is full.", evidence=evidence, advice="Make room, then try again.")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Refused(
                "The portal may not do this on this computer.",
                evidence=evidence,
                advice="Let the portal's user own its data folder.",
            )
        case errno.EADDRNOTAVAIL:
            return Refused("This computer has no loopback addresses 127.77.x.x.", evidence=evidence)
        case errno.EMFILE | errno.ENFILE:
            return Passing("Too many files are open on this computer.", evidence=evidence)
        case errno.EAGAIN | errno.ENOMEM:
            return Passing("This computer is out of memory or processes.", evidence=evidence)
        case _:
            return Passing("This computer could not do it just now.", evidence=evidence)
