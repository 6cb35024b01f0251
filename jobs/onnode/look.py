"""Runs beside the portal: looks whether a job's repository, reference and file can be reached, as a node would.

    python -I look.py < ORDER       in JSON: as `source.fetch` reads it, and `credential`, `file`, `place`, `private`

Prints one line of JSON: {"commit", "subject", "has"} or {"message", "evidence", "advice"}. Standard library only.
"""

import contextlib
import json
import os
import pathlib
import resource
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2] / "portal" / "onnode")]

import addresses  # noqa: E402
import source  # noqa: E402
from programs import ProgramFailed, SetupFailed  # noqa: E402

MOST_BYTES = 1 << 30  # of one file that git writes


class PublicServer(addresses.Server):
    """One that is on no private network: those are the nodes' own, and the portal's network is nobody's to look at."""

    def __init__(self, url, allow_this_machine):
        super().__init__(url, allow_this_machine)
        for address in self.addresses:  # to which git is held, whatever the name leads to by then
            if not address.is_global or address.is_multicast:
                raise SetupFailed(
                    f"{self.host} is on a private network, which only the nodes can look into.",
                    "",
                    "Whether it can be reached is known when the job runs.",
                    addresses.ADDRESS,
                )


class Setup:
    def __init__(self, order):
        self.order, self.credential, self.facts = order, order["credential"], {}
        self.folder = pathlib.Path(order["place"])

    def say(self, sentence):
        pass

    def begin(self):
        pass


def look(order):
    if not order["private"]:
        addresses.Server = PublicServer
    setup, url = Setup(order), order["git_url"]
    with source.a_place_of_our_own(order["scratch"]) as place:
        fetcher = source.Fetcher(setup, place)
        folder = place / "src"
        signed_in = fetcher.signed_in(url, order["credential"]) if order["credential"] else contextlib.nullcontext()
        try:
            with signed_in:
                server = addresses.Server(url, fetcher.here)
                commit, subject = fetcher.check_out(server, order["reference"], folder)
        except ProgramFailed as failure:
            raise SetupFailed("The repository cannot be read.", failure.said, fetcher.advice) from failure
        wanted = folder / order["file"] if order["file"] else None
        here = wanted is None or (
            os.path.realpath(wanted).startswith(f"{os.path.realpath(folder)}/") and wanted.is_file()
        )
        return {"commit": commit, "subject": subject, "has": here}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
    try:
        found = look(json.load(sys.stdin))
    except SetupFailed as failure:
        found = {name: failure.facts[name] for name in ("message", "evidence", "advice")}
    except (OSError, ValueError) as error:  # a name that is none, too
        found = {"message": "It could not be looked for.", "evidence": str(error), "advice": ""}
    print(json.dumps(found))
