"""Runs on the head node: fetches a job's source and packages, then becomes its `mpiexec`.

    python3 job.py FOLDER        with FOLDER/job.json: see `launch` in jobs/plans.py

Called as `main([FOLDER], secret)` it also has what the repository asks for: {"username": …, "password": …}.

Writes what it does to FOLDER/setup, what it found to FOLDER/facts.json, and becomes the command, so that the exit
status is the command's. Standard library only, Python 3.9 or newer.
"""

import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

SETUP_FAILED = 70  # EX_SOFTWARE of sysexits.h; facts.json says what failed
COMMIT = re.compile(r"[0-9a-f]{7,40}")
# What git-check-ref-format(1) forbids in a name: "HEAD~1" or "main^{/words}" would be read as expressions.
NO_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^-|^@$")
PROXIES = ("HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")
PORTS = {"https": 443, "http": 80, "ssh": 22}

# What git asks for a user name, and then for a password. They are in no variable and on no disk.
ASKPASS = """#!/bin/sh
case "$1" in
Username*) exec cat /proc/self/fd/%d ;;
*) exec cat /proc/self/fd/%d ;;
esac
"""

# Runs around every rank; writes down the first one to fail, because mpiexec does not say which it was.
RANK = """#!/bin/sh
"$@"
status=$?
[ $status -eq 0 ] || echo "${PMI_RANK:-?} $status $(hostname)" >> "$COXSWAIN_NOTES"
exit $status
"""


class SetupFailed(Exception):
    def __init__(self, message, evidence="", advice=""):
        super().__init__(message)
        self.facts = {"message": message, "evidence": evidence[-1500:], "advice": advice}


class GitFailed(Exception):
    def __init__(self, said):
        super().__init__(said)
        self.said = said


class Git:
    """Calls git: `git("fetch", …)`. Returns what it printed; raises `GitFailed` with what it said."""

    SETTINGS = (
        "http.followRedirects=false",
        "protocol.file.allow=never",
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "gc.auto=0",
        "maintenance.auto=false",
        "advice.detachedHead=false",
    )

    def __init__(self, options, env, holds=()):
        self.argv = ["git", *options]
        for setting in self.SETTINGS:
            self.argv += ["-c", setting]
        self.env = env
        self.holds = list(holds)  # descriptors

    def __call__(self, *words):
        done = subprocess.run(
            [*self.argv, *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            pass_fds=self.holds,
        )
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        if done.returncode:
            raise GitFailed(said)
        self.said = said
        return done.stdout.decode(errors="replace")


class Mirrors:
    """Repositories that runs of this workspace have used, so that only what is new is fetched.

    The repository itself is asked each time, and a mirror that has what it lists needs no fetch. A run gets hard links
    of a mirror's objects and depends on it no longer. A mirror that makes git fail is thrown away and made anew. All of
    it under a lock that the kernel takes from whoever dies.
    """

    MOST = 20  # mirrors; the ones that were not used for longest go
    MOST_FILES = 200  # of objects in one mirror, before it is packed anew
    HEAD_IS_NOW = re.compile(r"^HEAD is now at [0-9a-f]+ ?(.*)$", re.MULTILINE)

    def __init__(self, git, folder, say):
        self.git = git
        self.folder = folder
        self.say = say

    def check_out(self, url, listing, reference, source):
        """The commit and its subject; the commit is None when the repository has no such reference."""
        mirror = self.folder / hashlib.sha256(url.encode()).hexdigest()[:24]
        while True:
            known = mirror.is_dir()
            try:
                with self.locked(mirror):
                    self.update(mirror, url, listing)
                    commit = self.find(mirror, reference)
                    if commit is None:
                        return None, ""
                    self.copy(mirror, url, commit, source)
                self.git("-C", str(source), "checkout", "--force", "--detach", commit, "--")
            except (GitFailed, OSError):
                with self.locked(mirror):
                    shutil.rmtree(mirror, ignore_errors=True)
                if not known:
                    raise
            else:
                said = self.HEAD_IS_NOW.search(self.git.said)
                return commit, said.group(1) if said else ""

    @contextlib.contextmanager
    def locked(self, mirror, how=fcntl.LOCK_EX):
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(f"{mirror}.lock", "a") as lock:
            fcntl.flock(lock, how)
            self.git.holds.append(lock.fileno())  # if we are killed, git has the lock until it ends too
            try:
                yield
            finally:
                self.git.holds.pop()

    def update(self, mirror, url, listing):
        """Have what the repository lists now."""
        seen = mirror / "listing"  # what was listed when it was last fetched
        if not seen.exists():
            self.say(f"Cloning {url}")
            shutil.rmtree(mirror, ignore_errors=True)
            self.make_room()
            self.git("init", "--quiet", "--bare", "--template=", str(mirror))
        elif seen.read_text() == listing:
            os.utime(seen)
            return
        else:
            self.say(f"Fetching what is new in {url}")
        seen.write_text("")  # whatever happens from here on, it is fetched again
        names = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        if "\tHEAD\n" in listing:
            names.append("+HEAD:refs/remotes/origin/HEAD")
        at = ["--git-dir", str(mirror)]
        self.git(*at, "fetch", "--quiet", "--prune", "--no-tags", "--", url, *names)
        if sum(len(files) for _, _, files in os.walk(mirror / "objects")) > self.MOST_FILES:
            self.git(*at, "gc", "--quiet", "--force", "--prune=now")
        self.git(*at, "pack-refs", "--all")
        seen.write_text(listing)

    def make_room(self):
        kept = sorted(self.folder.glob("*/listing"), key=lambda seen: seen.stat().st_mtime)
        for seen in kept[: max(0, len(kept) - self.MOST + 1)]:
            with contextlib.suppress(BlockingIOError), self.locked(seen.parent, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(seen.parent, ignore_errors=True)

    def find(self, mirror, reference):
        found = {}
        name = ""
        packed = mirror / "packed-refs"
        for line in packed.read_text().splitlines() if packed.exists() else []:
            if line.startswith("^"):
                found[name] = line[1:]  # what the tag above points to
            elif not line.startswith("#"):
                commit, _, name = line.partition(" ")
                found[name] = commit
        for name in (f"refs/remotes/origin/{reference or 'HEAD'}", f"refs/tags/{reference}"):
            if name in found:
                return found[name]
        if not COMMIT.fullmatch(reference):
            return None
        with contextlib.suppress(GitFailed):
            words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
            return self.git("--git-dir", str(mirror), *words).strip()

    def copy(self, mirror, url, commit, source):
        """A repository of the run's own, as a clone would be."""
        shutil.rmtree(source, ignore_errors=True)
        own = source / ".git"
        shutil.copytree(mirror / "objects", own / "objects", copy_function=link)
        (own / "refs").mkdir()
        shutil.copy(mirror / "packed-refs", own / "packed-refs")
        (own / "HEAD").write_text(f"{commit}\n")
        origin = json.dumps(url, ensure_ascii=False)
        (own / "config").write_text(
            "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"
            f'[remote "origin"]\n\turl = {origin}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
        )


def link(file, to):
    """Objects never change, so they may be shared; where the filesystem has no links, they are copied."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy(file, to)


class Setup:
    def __init__(self, folder, credential=None):
        self.folder = folder
        self.credential = credential
        self.order = json.loads((folder / "job.json").read_text())
        self.log = (folder / "setup").open("ab", buffering=0)
        self.facts = {"phase": "clone"}  # as the portal takes it to be

    def say(self, sentence):
        self.log.write(f"{sentence}\n".encode(errors="replace"))

    def know(self, **facts):
        self.facts.update(facts)
        draft = self.folder / "facts.new"
        draft.write_text(json.dumps(self.facts))
        draft.replace(self.folder / "facts.json")

    def run(self, argv, env, what, advice=""):
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        if done.returncode:
            self.say(said)
            raise SetupFailed(what, said, advice)
        return done.stdout.decode(errors="replace").strip()

    # Source

    def address_of(self, url):
        """Refuse addresses that no repository should have; return git's option that pins the name to its address.

        Looked up here, once, and pinned, so that a name cannot point elsewhere the second time it is asked for.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise SetupFailed("A Git URL begins with https:// or ssh://.")
        port = parts.port or PORTS[parts.scheme]
        if os.environ.get("COXSWAIN_WAY_OUT"):
            return []  # names are looked up out there, and what is refused is refused there, for whatever a run does
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise SetupFailed(f"{parts.hostname} is not known.", str(error), "Check the Git URL of the job.") from error
        addresses = [ipaddress.ip_address(entry[4][0].split("%")[0]) for entry in found]
        for address in addresses:
            address = getattr(address, "ipv4_mapped", None) or address
            here = address.is_loopback and self.order["allow_this_machine"]
            if (
                address.is_link_local
                or address.is_multicast
                or address.is_unspecified
                or (address.is_loopback and not here)
            ):
                raise SetupFailed(f"{parts.hostname} is at {address}, where no Git server may be.")
            if parts.scheme == "http" and not here:
                raise SetupFailed("Plain http is only for a Git server on this machine. Use https.")
        if parts.scheme == "ssh":
            return []
        pinned = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])
        return ["-c", f"http.curloptResolve={parts.hostname}:{port}:{pinned}"]

    def git_environment(self, empty_home):
        """Built from nothing: neither the person's variables nor the node's configuration reach git."""
        keep = ("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", *PROXIES)
        protocols = "https:ssh:http" if self.order["allow_this_machine"] else "https:ssh"
        return {
            **{name: os.environ[name] for name in keep if name in os.environ},
            "COXSWAIN_RUN": self.order["environment"]["COXSWAIN_RUN"],  # so that none is left behind
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(empty_home),
            "LANG": "C.UTF-8",
            "GIT_ALLOW_PROTOCOL": protocols,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes",
        }

    @contextlib.contextmanager
    def asked_for_password(self, url):
        """(variables, descriptors) with which git signs in; without a credential it is told that there is none."""
        if not self.credential:
            yield {"GIT_ASKPASS": "/bin/false"}, []
            return
        if not url.startswith(("https://", "http://")):
            raise SetupFailed("A user name and a password are for addresses that begin with https://.")
        files = []
        try:
            for name in ("username", "password"):
                files.append(os.memfd_create(name))
                os.write(files[-1], f"{self.credential[name]}\n".encode())
            program = self.folder / "askpass"
            program.write_text(ASKPASS % tuple(files))
            program.chmod(0o700)
            yield {"GIT_ASKPASS": str(program)}, files
        finally:
            for file in files:
                os.close(file)

    def fetch_source(self):
        """The repository in FOLDER/src, at the commit that the reference names now."""
        url, reference = self.order["git_url"], self.order["reference"]
        if NO_NAME.search(reference):
            raise SetupFailed(
                f"{reference} is no name of a branch, tag or commit.", "", "Check the reference of the job."
            )
        if shutil.which("git") is None:
            raise SetupFailed("git is not installed on the head node.")
        source, empty_home = self.folder / "src", self.folder / "git-home"
        empty_home.mkdir(exist_ok=True)
        advice = "Check that the Git URL is right and may be read without a password; or give the job one."
        kept = pathlib.Path(self.order["shared"], ".sources")
        if self.credential:
            advice = "Check that the Git URL, and the user name and password or access token of the job, are right."
            kept = self.folder / "sources"  # goes with the run: nothing of a private repository stays on /shared
        with self.asked_for_password(url) as (variables, files):
            git = Git(self.address_of(url), {**self.git_environment(empty_home), **variables}, files)
            try:
                listing = git("ls-remote", "--quiet", "--", url, "HEAD", "refs/heads/*", "refs/tags/*")
                commit, subject = Mirrors(git, kept, self.say).check_out(url, listing, reference, source)
            except GitFailed as failure:
                self.say(failure.said)
                raise SetupFailed("The source could not be cloned.", failure.said, advice) from failure
        if commit is None:
            raise SetupFailed(
                f"The repository has no branch, tag or commit {reference}.", "", "Check the reference of the job."
            )
        self.know(commit=commit, subject=subject[:200])
        self.say(f"At {commit[:12]}, {subject[:200]}")
        shutil.rmtree(empty_home, ignore_errors=True)
        if self.credential:
            shutil.rmtree(kept, ignore_errors=True)
            self.credential = None
        return source

    # Packages

    def fetch_packages(self, source):
        """The packages of the repository's requirements.txt, kept on /shared by its checksum. Returns their folder."""
        wanted = source / "requirements.txt"
        if not wanted.is_file():
            return None
        text = wanted.read_bytes()
        if not [line for line in text.decode(errors="replace").splitlines() if line.split("#")[0].strip()]:
            return None
        engine = pathlib.Path(self.order["engine"])
        name = hashlib.sha256(str(engine).encode() + b"\0" + text).hexdigest()[:16]
        final = pathlib.Path(self.order["shared"], ".packages", name)
        if not (final / ".complete").exists():
            self.know(phase="packages")
            self.say("Installing the packages of requirements.txt")
            began = time.time()
            draft = final.with_name(f"{name}.{self.folder.name}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            python = str(engine / "bin" / "python")
            rest = ["--quiet", "--target", str(draft), "-r", str(wanted)]
            uv = ["uv", "pip", "install", "--python", python, "--link-mode", "copy", *rest]
            # uv is quick, and reads none of pip's settings; where it cannot, pip may.
            if (
                shutil.which("uv") is None
                or subprocess.run(uv, stdin=subprocess.DEVNULL, capture_output=True).returncode
            ):
                own_pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
                pip = [python, "-m", "pip"] if own_pip else ["python3", "-m", "pip", "--python", python]
                self.run([*pip, "install", "--disable-pip-version-check", "--no-input", *rest], dict(os.environ),
                         "The packages of requirements.txt could not be installed.",
                         "Read the end of the output, and mend requirements.txt.")  # fmt: skip
            (draft / ".complete").touch()
            try:
                draft.rename(final)
            except OSError:  # another run was first
                shutil.rmtree(draft, ignore_errors=True)
            self.say(f"Installed in {time.time() - began:.1f} s, kept for the next run")
        return final

    # Command

    def command(self, source, packages):
        order = self.order
        rank = self.folder / "rank"
        rank.write_text(RANK)
        rank.chmod(0o700)
        bin_folder = pathlib.Path(order["engine"], "bin")
        env = {
            **os.environ,
            **order["environment"],
            "PATH": f"{bin_folder}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONUNBUFFERED": "1",
            "COXSWAIN_NOTES": str(self.folder / "notes"),
        }
        if packages:
            env["PYTHONPATH"] = str(packages)
        argv = [str(bin_folder / "mpiexec"), "-n", str(order["cores"]), "-f", order["hostfile"], str(rank),
                str(bin_folder / "python"), *order["command"]]  # fmt: skip
        self.say(f"$ mpiexec -n {order['cores']} python {shlex.join(order['command'])}")
        self.know(phase="run", began=time.time())
        os.chdir(source)
        os.execve(argv[0], argv, env)


def main(argv, secret=None):
    setup = Setup(pathlib.Path(argv[0]), secret and json.loads(secret))
    try:
        source = setup.fetch_source()
        setup.command(source, setup.fetch_packages(source))
    except SetupFailed as failure:
        setup.say(str(failure))
        setup.know(failure=failure.facts)
        sys.exit(SETUP_FAILED)
    except OSError as error:
        setup.say(str(error))
        setup.know(failure={"message": "The run could not be set up on the head node.", "evidence": str(error)})
        sys.exit(SETUP_FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
