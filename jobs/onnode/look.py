"""Runs beside the portal: looks whether a job's repository, reference and file can be reached, as a node would.

    python -I look.py < ORDER

ORDER is JSON: what `source.Fetcher` reads, and `reference`, `file`, `credential`, `place`; `private` and `loopback` say
whether it may go there, and `portal` is the host by which people reach the portal. Prints one line of JSON: {"commit",
"subject", "has"}, where `has` is null of a file that is not looked for, or {"message", "evidence", "advice"}.

Anybody may have written what is fetched here, and the portal runs beside it. So no file of it is checked out: one
commit is fetched, without its files where the server can leave them out, and git is asked for one path of its tree.
Standard library only.
"""

import contextlib
import ipaddress
import json
import pathlib
import posixpath
import re
import resource
import shutil
import socket
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2] / "portal" / "onnode")]

import addresses  # noqa: E402
import detach  # noqa: E402
import programs  # noqa: E402
import source  # noqa: E402
from programs import ProgramFailed, SetupFailed  # noqa: E402

MEMORY = 512 << 20  # bytes of addresses, of this and of each program of git's
FILE = 128 << 20  # bytes of one file that git writes
LISTING = 16 << 20  # bytes that git may print
BOUNDS = (
    (resource.RLIMIT_AS, MEMORY),
    (resource.RLIMIT_FSIZE, FILE),
    (resource.RLIMIT_CPU, 20),
    (resource.RLIMIT_CORE, 0),
)
SETTINGS = (
    "core.bigFileThreshold=1m",  # what is larger is not held in memory
    "core.packedGitLimit=64m",
    "core.packedGitWindowSize=1m",
    "pack.threads=1",
    "pack.windowMemory=32m",
    "http.emptyAuth=false",  # or it would sign in as whoever runs the portal, where a server asks for Kerberos
)
TOO_MUCH = re.compile(r"signal (9|24|25)\b|too large|out of memory|printed more than", re.IGNORECASE)  # by the bounds
FROM_HERE = {"GIT_ALLOW_PROTOCOL": "none", "GIT_LITERAL_PATHSPECS": "1"}  # nothing more is fetched
UNICAST = ipaddress.ip_network("2000::/3")  # the IPv6 addresses that lead anywhere
IS_DIRECTORY, IS_FILE = b"040000", (b"100644", b"100755")
PLAIN = re.compile(r"dumb http|does not support (shallow|--depth)")  # a web server: it gives out all or nothing
ALL_OF_IT = 1_000_000  # commits, one behind the other
ALL = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


class Public(addresses.Server):
    """A server that is on no private network: those are the nodes' own, and the portal's is nobody's to look into.

    Nor is it the portal's own computer, whose services may trust what comes from itself. Git is held to the addresses
    that were looked at, whatever the name leads to by then.
    """

    loopback = False
    portals = frozenset()

    def __init__(self, url, allow_this_machine):
        super().__init__(url, allow_this_machine)
        for address in self.addresses:
            if address.is_loopback and self.loopback:  # the one above has asked whether it is allowed at all
                continue
            where = ""
            if not address.is_global or address.is_multicast or (address.version == 6 and address not in UNICAST):
                where = "on a private network, which only the nodes can look into"
            elif str(address) in self.portals or is_own(address):
                where = "where this portal is, which it does not look into"
            if where:
                advice = "Whether it can be reached is known when the job runs."
                raise SetupFailed(f"{self.host} is {where}.", "", advice, addresses.ADDRESS)


def addresses_of(host):
    try:
        return frozenset(entry[4][0] for entry in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return frozenset()


def is_own(address):
    """Whether this computer has it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


class Setup:
    def __init__(self, order):
        self.order, self.credential, self.facts = order, order["credential"], {}
        self.folder = pathlib.Path(order["place"])

    def say(self, sentence):
        pass

    def begin(self):
        pass


def look(order):
    url, reference = order["git_url"], order["reference"]
    if url.startswith("ssh:"):  # ssh looks the name up itself, and has the keys of whoever runs the portal
        raise SetupFailed(
            "Addresses that begin with ssh:// are not looked at from here.",
            "",
            "The nodes sign in there with a key of their own: whether they get in is known when the job runs.",
        )
    if not order["private"]:
        Public.loopback, Public.portals = order["loopback"], addresses_of(order["portal"])
        addresses.Server = Public
    with source.a_place_of_our_own(order["scratch"]) as place:
        fetcher = source.Fetcher(Setup(order), place)
        for setting in SETTINGS:
            fetcher.git.argv += ["-c", setting]
        signed_in = fetcher.signed_in(url, order["credential"]) if order["credential"] else contextlib.nullcontext()
        try:
            with signed_in:
                repository = str(place / "repository")
                commit = fetched(fetcher, addresses.Server(url, fetcher.here), reference, repository)
        except ProgramFailed as failure:
            if TOO_MUCH.search(failure.said):
                raise MemoryError(failure.said) from failure
            raise SetupFailed("The repository cannot be read.", failure.said, fetcher.advice) from failure
        at = ("--git-dir", repository)
        subject = fetcher.git(*at, "log", "-1", "--no-show-signature", "--format=%s", commit, "--", env=FROM_HERE)
        return {
            "commit": commit,
            "subject": subject.decode(errors="replace").strip()[:200],
            "has": has(fetcher.git, repository, commit, order["file"]) if order["file"] else True,
        }


def fetched(fetcher, server, reference, repository):
    """The commit that the reference means, which is in the repository then."""
    more = [reference if reference.startswith("refs/") else f"refs/{reference}"] if "/" in reference else []
    server, refs = fetcher.ask(server, *source.LISTED, *more)
    named = fetcher.named(reference, refs)
    commit = named[1] if named else reference.lower()
    if named:
        ref = named[0].removesuffix(b"^{}").decode(errors="surrogateescape")
        bring(fetcher.git, server, repository, f"+{ref}:refs/kept/it", depth=1)
        if (found := known(fetcher.git, repository, commit)) is None:
            raise SetupFailed(f"{addresses.shown(reference)} is the name of something that is no commit.")
        return found
    if source.WHOLE_COMMIT.fullmatch(commit):
        with contextlib.suppress(ProgramFailed):  # not every server gives out a commit that no name leads to
            bring(fetcher.git, server, repository, f"+{commit}:refs/kept/it", depth=1)
            return known(fetcher.git, repository, commit)
    if source.COMMIT.fullmatch(commit):
        bring(fetcher.git, server, repository, *ALL, depth=ALL_OF_IT)
        if found := known(fetcher.git, repository, commit):
            return found
    raise source.not_there(reference, refs)


def bring(git, server, repository, *refs, depth):
    """Fetch these into a new repository: without what files say, where the server can leave that out."""
    for options in ((f"--depth={depth}", "--filter=blob:none"), ()):
        # Anew: one that was asked for a part is asked for what it lacks ever after, and waits for that.
        shutil.rmtree(repository, ignore_errors=True)
        git("init", "--quiet", "--bare", "--template=", repository)
        try:
            git(
                *("--git-dir", repository, "fetch", "--quiet", "--no-tags", *options, "--", server.url, *refs),
                server=server,
            )
        except ProgramFailed as failure:
            if not (options and PLAIN.search(failure.said)):
                raise
        else:
            return


def known(git, repository, commit):
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    try:
        return git("--git-dir", repository, *words, env=FROM_HERE).decode().strip()
    except ProgramFailed as failure:
        if "is ambiguous" in failure.said:
            raise source.several(commit, failure.said) from failure
        return None


def has(git, repository, commit, file):
    """Whether the commit has it. None of one that is behind a link or in a submodule."""
    path = posixpath.normpath(file)
    if path.startswith(("/", "../")) or path in (".", ".."):
        return False
    names = path.split("/")
    for count in range(1, len(names) + 1):
        part = "/".join(names[:count])
        found = git("--git-dir", repository, "ls-tree", "-z", commit, "--", part, env=FROM_HERE)
        mode = found.partition(b" ")[0]
        if mode in IS_FILE:
            return count == len(names)
        if mode != IS_DIRECTORY:
            return None if mode else False
    return False


if __name__ == "__main__":
    for kind, most in BOUNDS:
        resource.setrlimit(kind, (most, most))
    programs.MOST_OUTPUT = LISTING
    detach.hide()  # before a password is read
    try:
        found = look(json.load(sys.stdin))
    except SetupFailed as failure:
        found = {name: failure.facts[name] for name in ("message", "evidence", "advice")}
    except MemoryError as error:
        sys.exit(f"It takes too much: {error}")
    except (OSError, ValueError, ProgramFailed) as error:  # a name that is none, too
        found = {"message": "It could not be looked for.", "evidence": str(error), "advice": ""}
    print(json.dumps(found))
