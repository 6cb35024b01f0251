"""Fetches a run's source with git, from a server that may be anybody's, into a folder that is the run's."""

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import time

import addresses
import kept
from addresses import shown
from detach import open_file, take_back
from programs import ProgramFailed, Progress, SetupFailed, TookTooLong, begun

PATH = "/usr/local/bin:/usr/bin:/bin"
SCRATCH = "/tmp"  # noqa: S108 (in it, a folder of a name that nobody guesses)
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")
WHOLE_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
# What git-check-ref-format(1) forbids in a name: "HEAD~1" or "main^{/words}" would be read as expressions.
NO_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^-|^@$")
# Where systems keep all that they trust in one file: Debian and Alpine, Fedora, openSUSE.
AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
UNTRUSTED = re.compile(r"certificate (?:verif|problem)", re.IGNORECASE)
MOVED = re.compile(r"The requested URL returned error: 30[1278]")
REFERENCE = "reference"  # the code of what another reference would mend
SILENT = re.compile(r"Operation too slow|timed out|Timeout", re.IGNORECASE)
HOPS = 5  # redirects that are followed
DEPTH = 5  # submodules in submodules
MOST_SUBMODULES = 100
MOST_LISTING = 256 << 20  # bytes of what a repository lists, as of all that git prints
LONGEST = 240  # bytes between slashes in a ref's name that a filesystem takes, with what git appends
SMALL = 16 << 20  # bytes of a mirror from which a run is checked out before it is known that nothing is new
MOST_FILES = 200  # of objects in one mirror, before it is packed anew
GITLINK = b"\x00\x00\xe0\x00"  # mode of a submodule in an index
LFS = b"version https://git-lfs.github.com/spec/"
CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = {}\n"
FETCH = ("fetch", "--progress", "--prune", "--no-tags", "--")
EVERYTHING = (b"+HEAD:refs/remotes/origin/HEAD", b"+refs/heads/*:refs/remotes/origin/*", b"+refs/tags/*:refs/tags/*")
LISTED = ("HEAD", "refs/heads/*", "refs/tags/*")
HEAD_IS_NOW = re.compile(r"^HEAD is now at [0-9a-f]+ ?(.*)$", re.MULTILINE)


def fetch(setup):
    """The repository in FOLDER/src, at the commit that the reference names now. Returns the folder.

    Of `setup.order`: git_url, reference, shared, allow_this_machine, environment, and where given `git_seconds` for all
    of it, `git_silence_seconds` without a byte, `scratch`, a folder that no other node sees, and what `kept` reads.
    Forgets the credential.
    """
    url, reference = setup.order["git_url"], setup.order["reference"]
    if NO_NAME.search(reference):
        raise SetupFailed(
            f"{shown(reference)} is no name of a branch, tag or commit.",
            "",
            "Check the reference of the job.",
            REFERENCE,
        )
    if shutil.which("git", path=PATH) is None:
        raise SetupFailed("git is not installed on the head node.")
    source = setup.folder / "src"
    with a_place_of_our_own(setup.order.get("scratch", SCRATCH)) as place:
        fetcher = Fetcher(setup, place)
        fetcher.git.meanwhile = setup.begin
        if setup.credential:
            with fetcher.signed_in(url, setup.credential):
                commit, subject = fetcher.bring(url, reference, place / "src")
            setup.credential = None
            shutil.copytree(place / "src", source, symlinks=True)
        else:
            commit, subject = fetcher.bring(url, reference, source)
    setup.facts.update(commit=commit, subject=subject)  # told with what comes next
    setup.say(f"At {commit[:12]}, {subject}")
    return source


class Terminated(BaseException):
    pass


@contextlib.contextmanager
def a_place_of_our_own(parent):
    """A folder on this node that nobody else has, gone at the end, also at that by a signal.

    All that git touches while it is signed in lies in it. What lies on /shared, a run of another cluster may change
    at any moment, and a repository's configuration, for one, names programs that git starts.
    """

    def terminate(number, frame):
        raise Terminated

    take_back(parent, stat.S_ISDIR)  # an earlier run may have had it lead to /shared
    os.makedirs(parent, mode=0o700, exist_ok=True)
    for left in pathlib.Path(parent).glob("coxswain-source-*"):  # by those who were killed
        with contextlib.suppress(OSError, RecursionError), closing(os.open(left, FOLDER)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    place, lock = locked_folder(parent)
    before = signal.signal(signal.SIGTERM, terminate)
    terminated = False
    try:
        yield place
    except Terminated:
        terminated = True
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)
        signal.signal(signal.SIGTERM, before)
    if terminated:
        os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(1)


def locked_folder(parent):
    """A new folder, and the lock by which others see that it is not left by somebody."""
    while True:
        place = pathlib.Path(parent, f"coxswain-source-{os.urandom(16).hex()}")
        place.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # somebody looked before it was locked
            lock = os.open(place, FOLDER)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if place.exists():
                return place, lock
            os.close(lock)


@contextlib.contextmanager
def closing(descriptor):
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Git:
    """Calls git: `git("fetch", …)`. Returns its output in bytes; raises `ProgramFailed` with what it said.

    With a server, it may go there: by the relay, which signs in, where that is the one to sign in at.
    """

    SETTINGS = (
        "http.followRedirects=false",
        "protocol.file.allow=never",
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "credential.helper=",
        "http.extraHeader=",
        "http.cookieFile=",
        "fetch.recurseSubmodules=false",
        "submodule.recurse=false",
        "fetch.unpackLimit=1",
        "core.logAllRefUpdates=false",
        "gc.auto=0",
        "maintenance.auto=false",
        "advice.detachedHead=false",
        "http.lowSpeedLimit=1",
    )
    KEPT = ("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY",
            "all_proxy", "NO_PROXY", "no_proxy")  # fmt: skip

    def __init__(self, order, home, say):
        self.seconds = order.get("git_seconds", 600)
        self.silence = max(1, min(order.get("git_silence_seconds", 60), self.seconds))
        self.until = time.monotonic() + self.seconds
        self.say = say
        self.argv = ["git"]
        for setting in (*self.SETTINGS, f"http.lowSpeedTime={self.silence}"):
            self.argv += ["-c", setting]
        self.holds = []  # descriptors
        self.relay = None  # which signs in to the servers of one origin
        self.meanwhile = None  # called while git is out for the first time
        self.said = ""
        # Built from nothing: neither the person's variables nor the node's configuration reach git.
        self.env = {
            **{name: os.environ[name] for name in self.KEPT if name in os.environ},
            "COXSWAIN_RUN": order["environment"]["COXSWAIN_RUN"],  # so that none is left behind
            "PATH": PATH,
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "GIT_ALLOW_PROTOCOL": "https:ssh:http" if order["allow_this_machine"] else "https:ssh",
            "GIT_ASKPASS": "/bin/false",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=30"
            " -o ServerAliveInterval=15",
        }
        self.trust = self.one_file(home)

    def one_file(self, home):
        """Where git is to look whom to trust: GnuTLS reads the folder of all certificates too, which takes 50 ms."""
        if any("SSL" in name for name in self.env):
            return {}  # whoever runs the node has said where
        nothing = home / "no-certificates"
        found = next((file for file in AUTHORITIES if os.path.isfile(file)), None)
        if found is None:
            return {}
        nothing.mkdir()
        return {"GIT_SSL_CAINFO": found, "GIT_SSL_CAPATH": str(nothing)}

    def __call__(self, *words, server=None, seconds=None, env=None):
        if server and self.relay and server.origin == self.relay.origin:
            return self.by_relay(words, server, seconds, env)
        return self.go(words, server.options if server else (), server, seconds, {**self.env, **(env or {})}, str)

    def by_relay(self, words, server, seconds, env):
        """As git would ask the server itself, and say so."""
        relay, at = self.relay, server.url if server.url.endswith("/") else f"{server.url}/"
        words = [relay.url if word == server.url else word for word in words]
        own = {name: value for name, value in self.env.items() if name not in self.KEPT}
        own.update(env or {}, GIT_ALLOW_PROTOCOL="http")
        try:
            with relay.asking(server):
                return self.go(words, (), server, seconds, own, lambda said: said.replace(relay.url, at))
        except ProgramFailed as failure:
            if relay.refused:
                raise ProgramFailed(f"fatal: Authentication failed for '{at}'") from failure
            if relay.trouble:
                raise ProgramFailed(f"fatal: unable to access '{at}': {relay.trouble}") from failure
            raise

    def go(self, words, options, server, seconds, env, as_it_is):
        """`as_it_is(text)` is what it says, in words that mean something elsewhere."""
        meanwhile, self.meanwhile = self.meanwhile, None
        try:
            with self.out(words, options, server, seconds, env, as_it_is) as come_back:
                began = time.monotonic()
                if meanwhile:
                    meanwhile()
                return come_back(time.monotonic() - began)
        except ProgramFailed as error:
            if server and self.trust and UNTRUSTED.search(error.said):
                self.trust = {}  # an authority may be in the folder alone
                return self.go(words, options, server, seconds, env, as_it_is)
            raise

    @contextlib.contextmanager
    def out(self, words, options, server, seconds, env, as_it_is):
        """It goes on. What is given waits for its output, longer by what nobody waited; at the end of this it ends."""
        until = min(self.until, time.monotonic() + (seconds or self.seconds))
        began, progress = time.monotonic(), Progress(self.say)

        def come_back(late=0.0):
            try:
                output, said = wait(until + late)
            except TookTooLong as error:
                raise self.waited(server, time.monotonic() - began, as_it_is(error.said)) from error
            except ProgramFailed as error:
                if server and SILENT.search(error.said):
                    raise self.waited(server, time.monotonic() - began, as_it_is(error.said)) from error
                raise ProgramFailed(as_it_is(error.said)) from error
            self.said = as_it_is(said)
            return output

        with begun(
            [*self.argv, *options, *words],
            env={**self.trust, **env},
            cwd="/",  # for git looks for a repository in each folder above the one that it is called in
            tell=lambda line: progress(as_it_is(line)),
            holds=self.holds,
        ) as wait:
            yield come_back

    def waited(self, server, seconds, said):
        where = f"Git waited {seconds:.0f} s for {server.host}" if server else f"Git took longer than {seconds:.0f} s"
        advice = "Check that the server answers" if server else "Look at how busy the head node is"
        return SetupFailed(f"{where}, and was ended.", said, f"{advice}, and run the job again.")


class Fetcher:
    """Repositories with their submodules, out of mirrors that runs of this workspace have used before.

    The repository itself is asked each time, and a mirror that has what it lists needs no fetch. A run gets hard links
    of a mirror's objects and depends on it no longer. A mirror that makes git fail is thrown away and made anew.
    """

    def __init__(self, setup, place):
        order = setup.order
        self.place = place
        self.say = setup.say
        self.here = order["allow_this_machine"]
        self.git = Git(order, place, self.say)
        self.store = kept.Store(pathlib.Path(order["shared"], ".sources"), order, self.git.until, self.say)
        self.advice = "Check that the path of the job is right and may be read without a password; or give the job one."
        self.submodules = 0
        self.expected = None  # (mirror, what was listed, commit, folder) of what is checked out already; its subject
        self.ahead = contextlib.ExitStack()  # what holds a mirror that is made while its server is asked
        self.making = None  # (its name, what waits for its fetch)

    @contextlib.contextmanager
    def signed_in(self, url, credential):
        """Meanwhile git is signed in where `url` is, and nowhere else; and nothing that it touches is on /shared."""
        server = addresses.Server(url, self.here)
        if server.scheme == "ssh":
            raise SetupFailed("A user name and a password are for addresses that begin with https://.", code="source")
        self.advice = "Check that the path of the job, and its user name and password or access token, are right."
        self.store.folder = self.place / "mirrors"
        import relay  # here: no other run is to wait for what it loads

        trust = self.git.trust.get("GIT_SSL_CAINFO")
        with relay.Relay(server.origin, credential, self.git.silence, trust).listening() as self.git.relay:
            try:
                yield
            finally:
                self.git.relay = None

    def bring(self, url, reference, folder):
        """The commit and its subject, when they and their submodules lie in the folder. Raises `SetupFailed`."""
        server, begin = addresses.Server(url, self.here), self.git.meanwhile
        self.git.meanwhile = lambda: (self.go_ahead(server), begin(), self.expect(server.url, reference, folder))
        try:
            commit, subject = self.check_out(server, reference, folder)
            self.complete(url, commit, folder, 1)
        except ProgramFailed as failure:
            self.say(failure.said)
            raise SetupFailed("The source could not be cloned.", failure.said, self.advice, "source") from failure
        finally:
            self.ahead.close()
        return commit, subject

    # What the server has

    def ask(self, server, *names):
        """(server, {ref: commit}) of what it lists, wherever it redirects to: a step at a time, each one checked."""
        for _ in range(HOPS + 1):
            words = ("ls-remote", "--quiet", "--", server.url, *names)
            try:
                listing = self.git(*words, server=server, seconds=self.git.silence)
            except ProgramFailed as failure:
                location = MOVED.search(failure.said) and self.location(words, server)
                if not location:
                    raise
            else:
                lines = (line.partition(b"\t") for line in listing.split(b"\n") if line)
                return server, {ref: commit.decode("ascii", "replace") for commit, _, ref in lines}
            before, server = server, server.redirected(location, self.here)
            self.say(f"{shown(before.url)} is at {shown(server.url)} now")
            if self.git.relay and self.git.relay.origin == before.origin != server.origin:
                self.say(f"The password is for {before.origin} and is not given to {server.origin}")
        raise SetupFailed(f"{server.host} redirects more than {HOPS} times.", "", addresses.CHECK, addresses.ADDRESS)

    def location(self, words, server):
        """Where the server's answer leads to: git neither follows nor says it, but traces it. None when it does not."""
        trace = self.place / "trace"
        trace.write_bytes(b"")
        env = {"GIT_TRACE_CURL": str(trace), "GIT_TRACE_CURL_NO_DATA": "1"}
        with contextlib.suppress(ProgramFailed):
            self.git(*words, server=server, seconds=self.git.silence, env=env)
        found = re.findall(rb"(?mi)<= Recv header: location:[ \t]*([^\r\n]+)", trace.read_bytes())
        return found[-1].decode(errors="replace").strip() if found else None

    def named(self, reference, refs):
        """(ref, its commit) that the reference means among these, or None. Branches come first."""
        text = reference.encode(errors="surrogateescape")
        if text in (b"", b"HEAD", b"origin/HEAD", b"refs/remotes/origin/HEAD"):
            names = [b"HEAD", b"refs/heads/main", b"refs/heads/master"]
            if b"HEAD" not in refs and (named := next((ref for ref in names if ref in refs), None)):
                self.say(f"The repository does not say which is its main branch: this is {named.decode()}")
        else:
            names = [b"refs/heads/" + text, b"refs/tags/" + text, text, b"refs/" + text]
            for start in (b"refs/remotes/origin/", b"remotes/origin/", b"origin/"):
                if text.startswith(start):
                    names.append(b"refs/heads/" + text[len(start) :])
        found = [ref for ref in names if ref in refs]
        if len(found) > 1 and found[:2] == names[:2] and names[0] != b"HEAD":
            self.say(f"{shown(reference)} is a branch and a tag: this is the branch, the tag is refs/tags/{reference}")
        return (found[0], refs.get(found[0] + b"^{}", refs[found[0]])) if found else None

    # Mirrors

    def check_out(self, server, reference, folder, exact=False):
        """The commit and its subject, checked out in the folder. With `exact` the reference is a commit and no name."""
        more = [reference if reference.startswith("refs/") else f"refs/{reference}"] if "/" in reference else []
        server, refs = self.ask(server, *LISTED, *more)
        name = mirror_of(server.url)
        mirror, what = self.store.folder / name, f"the mirror of {shown(server.url)}"
        while True:
            known = self.store.is_kept(name)
            try:
                with self.locked(name, what):
                    self.update(name, server, refs)
                    commit = self.find(mirror, server, reference, refs, exact)
                    expected, self.expected = self.expected, None
                    if expected and expected[0] == (name, listing(refs), commit, folder):
                        return commit, expected[1]
                    self.copy(mirror, server.url, commit, folder)
                return commit, self.write(commit, folder)
            except (ProgramFailed, OSError, RecursionError):  # this one of folders that are too deep
                with self.store.locked(name, what):
                    self.store.clear(name)
                if not known:
                    raise

    @contextlib.contextmanager
    def locked(self, name, what):
        """Nobody else has the mirror now. Git has its lock too: if we are killed, until it ends."""
        if self.making and self.making[0] == name:
            with self.ahead:
                yield
            return
        self.ahead.close()  # the server is elsewhere
        with self.store.locked(name, what) as lock, self.held(lock):
            yield

    @contextlib.contextmanager
    def held(self, lock):
        self.git.holds.append(lock)
        try:
            yield
        finally:
            self.git.holds.remove(lock)

    def write(self, commit, folder):
        """The commit's files, in the folder that has its repository. Returns its subject."""
        at = ("--git-dir", str(folder / ".git"), "--work-tree", str(folder))
        self.git(*at, "checkout", "--force", "--detach", commit, "--")
        said = HEAD_IS_NOW.search(self.git.said)
        return said.group(1)[:200] if said else ""

    def go_ahead(self, server):
        """While the server is asked: a mirror, where there is none, as if no name that is listed were in the way."""
        name = mirror_of(server.url)
        mirror = self.store.folder / name
        with contextlib.suppress(OSError), contextlib.ExitStack() as ahead:
            if self.git.relay or (lock := self.store.take_if_free(name)) is None:
                return
            ahead.enter_context(closing(lock))
            if self.store.is_kept(name):
                return
            ahead.enter_context(self.held(lock))
            ahead.callback(self.store.forget_half, name)
            ahead.callback(setattr, self, "making", None)
            self.make(mirror)
            words = ("--git-dir", str(mirror), *FETCH, server.url, *EVERYTHING)
            fetching = self.git.out(words, server.options, server, None, self.git.env, str)
            self.making = name, ahead.enter_context(fetching)
            self.ahead = ahead.pop_all()

    def expect(self, url, reference, folder):
        """While the server is asked: check out what the mirror has, for most often the server lists nothing new.

        Whatever is wrong with it is said by `check_out`, which then does all of it. What is large is left to that.
        """
        name, ref = mirror_of(url), b"HEAD"
        if reference not in ("", "HEAD"):
            ref = b"refs/heads/" + reference.encode(errors="surrogateescape")
        mirror = self.store.folder / name
        with contextlib.suppress(ProgramFailed, OSError):
            if not 0 < kept.how_large(mirror) <= SMALL or (lock := self.store.take_if_free(name)) is None:
                return
            with closing(lock):
                take_back(mirror, stat.S_ISDIR)
                listed = content_of(mirror / "listing") or b""
                lines = (line.partition(b"\t") for line in listed.splitlines())
                commit = {ref: commit.decode("ascii", "replace") for commit, _, ref in lines}.get(ref)
                if commit is None:
                    return
                self.copy(mirror, url, commit, folder)
            self.expected = (name, listed, commit, folder), self.write(commit, folder)

    def has_made(self, mirror, now):
        """Whether the mirror that is ahead is whole, and has what the server lists now."""
        if self.making is None:
            return False
        with contextlib.suppress(ProgramFailed):
            self.making[1]()
            self.pack(mirror)
            return listing(packed(mirror)) == now
        return False

    def make(self, mirror):
        """An empty one, as `git init` makes it, which would be one more program to wait for."""
        self.store.clear(mirror.name)
        (mirror / "objects" / "pack").mkdir(parents=True, exist_ok=True)  # git makes it, but not for a server of files
        (mirror / "refs").mkdir(exist_ok=True)
        (mirror / "HEAD").write_text("ref: refs/heads/main\n")
        (mirror / "config").write_text(CONFIG.format("true"))

    def update(self, name, server, refs):
        """Have what the repository lists now."""
        mirror = self.store.folder / name
        seen = mirror / "listing"  # what was listed when it was last fetched
        take_back(mirror, stat.S_ISDIR)
        take_back(seen, stat.S_ISREG)
        now = listing(refs)
        if not (seen.exists() and self.store.is_kept(name)):
            self.say(f"Cloning {shown(server.url)}")
            if not self.has_made(mirror, now):
                self.make(mirror)
                self.fetch(mirror, server, refs)
        elif content_of(seen) == now:
            self.store.use(name)
            return
        else:
            self.say(f"Fetching what is new in {shown(server.url)}")
            seen.write_bytes(b"")  # whatever happens from here on, it is fetched again
            self.fetch(mirror, server, refs)
        seen.write_bytes(now)
        self.store.keep(name)
        self.store.make_room()

    def fetch(self, mirror, server, refs):
        ours = names_in(refs)
        names = [*(EVERYTHING if b"HEAD" in refs else EVERYTHING[1:])]
        # Names that are no files, or not beside the others'. They are listed, and found by their commits.
        folders = {ref[: slash.start()] for ref in ours for slash in re.finditer(b"/", ref)} | {b"refs/heads/HEAD"}
        names += [b"^" + ref for ref in ours if ref in folders or max(map(len, ref.split(b"/"))) > LONGEST]
        self.git("--git-dir", str(mirror), *FETCH, server.url, *names, server=server)
        self.pack(mirror)

    def pack(self, mirror):
        """What was fetched, in few files."""
        at = ("--git-dir", str(mirror))
        if sum(len(files) for _, _, files in os.walk(mirror / "objects")) > MOST_FILES:
            self.git(*at, "gc", "--quiet", "--force", "--prune=now")
        self.git(*at, "pack-refs", "--all")

    def find(self, mirror, server, reference, refs, exact):
        """The commit that the reference means; the mirror has it then. Raises `SetupFailed`."""
        commit = reference.lower() if COMMIT.fullmatch(reference) else None
        found = None if exact else self.named(reference, refs)
        if found is None:
            commit = commit and self.commit(mirror, server, commit)
            if commit is None:
                raise not_there(reference, refs)
            return commit
        ref, named = found
        if commit and self.known(mirror, commit) not in (None, named):
            self.say(f"{reference} is a branch or tag and the beginning of a commit: this is the branch or tag")
        if ref == b"HEAD" or named == refs.get(b"HEAD"):
            return named
        found = self.fetched(mirror, server, ref, named)
        if found is None:
            raise SetupFailed(f"{shown(reference)} is the name of something that is no commit.", code=REFERENCE)
        return found

    def commit(self, mirror, server, commit):
        """One of any branch, or of none, as that of a pull request, if the server gives it out. None if it does not."""
        found = self.known(mirror, commit)
        if found is None and WHOLE_COMMIT.fullmatch(commit):
            with contextlib.suppress(ProgramFailed):
                found = self.fetched(mirror, server, commit.encode(), commit)
        if found is None:
            _, everything = self.ask(server)
            tips = {sha: ref for ref, sha in everything.items() if sha.startswith(commit)}
            if len(tips) > 1:
                raise several(commit, "\n".join(tips))
            for sha, ref in tips.items():
                found = self.fetched(mirror, server, ref, sha)
        return found

    def fetched(self, mirror, server, ref, commit):
        """The commit, when the mirror has it: it is fetched if need be. None if it is no commit."""
        if self.known(mirror, commit) is None:
            names = b"+" + ref.replace(b"^{}", b"") + b":refs/kept/" + commit.encode()
            words = ("--git-dir", str(mirror), "fetch", "--progress", "--no-tags", "--", server.url, names)
            self.git(*words, server=server)
        return self.known(mirror, commit)

    def known(self, mirror, commit):
        words = ("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
        try:
            return self.git("--git-dir", str(mirror), *words).decode().strip()
        except ProgramFailed as failure:
            if "is ambiguous" in failure.said:
                raise several(commit, failure.said) from failure
            return None

    def copy(self, mirror, url, commit, folder):
        """A repository of the run's own, as a clone would be."""

        def deeper(at, names):  # than git's are: somebody may have made it too deep to be copied
            return [name for name in names if at != str(objects) and os.path.isdir(os.path.join(at, name))]

        empty(folder)
        own, objects = folder / ".git", mirror / "objects"
        shutil.copytree(objects, own / "objects", copy_function=link, ignore=deeper)
        (own / "refs").mkdir()
        shutil.copy(mirror / "packed-refs", own / "packed-refs")
        (own / "HEAD").write_text(f"{commit}\n")
        origin = json.dumps(url, ensure_ascii=False)
        (own / "config").write_text(
            CONFIG.format("false")
            + f'[remote "origin"]\n\turl = {origin}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
        )

    # What a commit does not have in it

    def complete(self, url, commit, folder, depth):
        """Fetch the submodules; say what is kept elsewhere."""
        index = (folder / ".git" / "index").read_bytes()
        if GITLINK not in index and b".gitattributes" not in index:
            return  # as most are: one program less
        at = ("--git-dir", str(folder / ".git"), "--work-tree", str(folder))
        entries = self.git(*at, "ls-files", "--stage", "-z").split(b"\0")
        links = [entry.partition(b"\t") for entry in entries if entry.startswith(b"160000 ")]
        known = self.submodules_of(commit, folder) if links else {}
        for about, _, path in links:
            self.submodule(url, folder, path, about.split()[1].decode(), known.get(path), depth)
        elsewhere = self.git(*at, "ls-files", "-z", "--", ":(attr:filter=lfs)").split(b"\0")
        names = [os.fsdecode(path) for path in elsewhere if path and begins_with(folder / os.fsdecode(path), LFS)]
        if names:
            what = ", ".join(map(shown, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            self.say(f"Git LFS keeps {what} elsewhere: not fetched, and what is there instead only says where it is")

    def submodule(self, url, folder, path, wanted, entry, depth):
        """By the same rules as the repository; where it may not be, a sentence names it and the run goes on."""
        name = shown(os.fsdecode(path))
        try:
            if entry is None:
                raise SetupFailed(".gitmodules does not say where it is.")
            if entry.get(b"update") == b"none":
                raise SetupFailed(".gitmodules says that it is not wanted.")
            self.submodules += 1
            if depth > DEPTH or self.submodules > MOST_SUBMODULES:
                raise SetupFailed(f"It is one of more than {MOST_SUBMODULES}, or more than {DEPTH} deep.")
            where = addresses.of_submodule(entry.get(b"url", b"").decode(errors="replace"), url)
            target = folder / os.fsdecode(path)
            if os.path.realpath(target) != os.path.join(os.path.realpath(folder), os.fsdecode(path)):
                raise SetupFailed("Its folder is a link.")
            self.check_out(addresses.Server(where, self.here), wanted, target, exact=True)
            self.complete(where, wanted, target, depth + 1)
        except (SetupFailed, ProgramFailed, OSError) as failure:
            if time.monotonic() > self.git.until:
                raise
            reason = (str(failure).strip().splitlines() or ["Git says nothing."])[-1]
            if "could not read Username" in reason:
                reason = "Its server asks who one is, and the job has nothing for that server."
            self.say(f"The submodule {name} is not fetched: {shown(reason)}")
        else:
            self.say(f"The submodule {name} is at {wanted[:12]}")

    def submodules_of(self, commit, folder):
        """{path: {what .gitmodules says of it}}, as it is in the commit."""
        words = ("config", "--blob", f"{commit}:.gitmodules", "--null", "--list")
        found = {}
        with contextlib.suppress(ProgramFailed):
            for line in self.git("--git-dir", str(folder / ".git"), *words).split(b"\0"):
                key, _, value = line.partition(b"\n")
                section, _, what = key.rpartition(b".")
                found.setdefault(section, {})[what] = value
        return {about[b"path"]: about for about in found.values() if b"path" in about}


def mirror_of(url):
    """Its name."""
    return hashlib.sha256(url.encode()).hexdigest()[:24]


def names_in(refs):
    """Those that a mirror has."""
    return sorted(ref for ref in refs if ref == b"HEAD" or ref.startswith((b"refs/heads/", b"refs/tags/")))


def listing(refs):
    """What a mirror has of what a server lists, as it is kept beside it."""
    return b"".join(refs[ref].encode() + b"\t" + ref + b"\n" for ref in names_in(refs))


def packed(mirror):
    """{ref: commit} of what a mirror has, by the server's names."""
    refs, ref = {}, b""
    for line in (content_of(mirror / "packed-refs") or b"").splitlines():
        commit, _, name = line.partition(b" ")
        if name and not line.startswith(b"#"):
            ref = name.replace(b"refs/remotes/origin/", b"refs/heads/", 1)
            ref = b"HEAD" if ref == b"refs/heads/HEAD" else ref
            refs[ref] = commit.decode()
        elif line.startswith(b"^"):
            refs[ref + b"^{}"] = commit[1:].decode()
    return refs


def not_there(reference, refs):
    """What says so, with what there is."""
    names = [ref.decode(errors="replace") for ref in refs if not ref.endswith(b"^{}")]
    branches = [name[len("refs/heads/") :] for name in names if name.startswith("refs/heads/")]
    tags = [name[len("refs/tags/") :] for name in names if name.startswith("refs/tags/")]
    if not branches and not tags:
        return SetupFailed("The repository is empty: it has no branch, tag or commit yet.")
    near = difflib.get_close_matches(reference, [*branches[:5000], *tags[:5000]], n=5, cutoff=0.6)
    has = [
        f"{kind}: {', '.join(shown(name) for name in names[:10])}{f' and {len(names) - 10} more' if names[10:] else ''}"
        for kind, names in (("Like it", near), ("Branches", branches), ("Tags", tags))
        if names
    ]
    if not reference:
        return SetupFailed(
            "The repository does not say which is its main branch.", "\n".join(has), "Name a branch.", REFERENCE
        )
    return SetupFailed(
        f"The repository has no branch, tag or commit {shown(reference)}.",
        "\n".join(has),
        "Check the reference of the job.",
        REFERENCE,
    )


def several(commit, which):
    return SetupFailed(
        f"{commit} is the beginning of several commits.", which, "Give more of it as the reference.", REFERENCE
    )


def begins_with(file, start):
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as opened:
            return opened.read(len(start)) == start
    except OSError:
        return False


def empty(folder):
    """It stays the same folder: those who wait for what comes into it are in it already."""
    folder.mkdir(exist_ok=True)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def content_of(file):
    """None where there is no file: what lies on /shared may be anything by now."""
    try:
        with open_file(file) as opened:
            return opened.read(MOST_LISTING)
    except OSError:
        return None


def link(file, to):
    """Objects never change, so they may be shared; where the filesystem has no links, they are copied."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy(file, to)
