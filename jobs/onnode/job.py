"""Runs on the head node: fetches a job's source and packages, then becomes its `mpiexec`.

    python3 job.py FOLDER        with FOLDER/job.json: see `Order` in jobs/plans.py

Writes what it does to FOLDER/setup, what it found to FOLDER/facts.json, and becomes the command, so that the exit
status is the command's. Standard library only, Python 3.9 or newer.
"""

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
PORTS = {"https": 443, "http": 80, "ssh": 22}

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


class Setup:
    def __init__(self, folder):
        self.folder = folder
        self.order = json.loads((folder / "job.json").read_text())
        self.log = (folder / "setup").open("ab", buffering=0)
        self.facts = {}

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
        keep = ("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
        protocols = "https:ssh:http" if self.order["allow_this_machine"] else "https:ssh"
        return {
            **{name: os.environ[name] for name in keep if name in os.environ},
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(empty_home),
            "LANG": "C.UTF-8",
            "GIT_ALLOW_PROTOCOL": protocols,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_SSH_COMMAND": "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes",
        }

    def fetch_source(self):
        url, reference = self.order["git_url"], self.order["reference"]
        if NO_NAME.search(reference):
            raise SetupFailed(
                f"{reference} is no name of a branch, tag or commit.", "", "Check the reference of the job."
            )
        if shutil.which("git") is None:
            raise SetupFailed("git is not installed on the head node.")
        source, empty_home = self.folder / "src", self.folder / "git-home"
        empty_home.mkdir(exist_ok=True)
        env = self.git_environment(empty_home)
        git = ["git", *self.address_of(url)]
        for setting in (
            "http.followRedirects=false",
            "protocol.file.allow=never",
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
        ):
            git += ["-c", setting]
        self.know(phase="clone")
        self.say(f"Cloning {url}")
        clone = [*git, "clone", "--quiet", "--no-checkout", "--", url, str(source)]
        advice = "Check that the Git URL is right and may be read without a password."
        self.run(clone, env, "The source could not be cloned.", advice)
        here = [*git, "-C", str(source)]
        candidates = [f"refs/remotes/origin/{reference}", f"refs/tags/{reference}"] if reference else ["HEAD"]
        if COMMIT.fullmatch(reference):
            candidates.append(reference)
        for candidate in candidates:
            found = subprocess.run(
                [*here, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{candidate}^{{commit}}"],
                env=env, capture_output=True, check=False)  # fmt: skip
            if found.returncode == 0:
                commit = found.stdout.decode().strip()
                break
        else:
            raise SetupFailed(
                f"The repository has no branch, tag or commit {reference}.", "", "Check the reference of the job."
            )
        self.run([*here, "checkout", "--quiet", "--detach", commit, "--"], env, "The source could not be checked out.")
        subject = self.run([*here, "log", "-1", "--format=%s", commit, "--"], env, "The source could not be read.")
        self.know(commit=commit, subject=subject[:200])
        self.say(f"At {commit[:12]}, {subject[:200]}")
        shutil.rmtree(empty_home, ignore_errors=True)
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


def main(argv):
    setup = Setup(pathlib.Path(argv[0]))
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
