"""Runs on the head node: fetches a job's source and packages, then becomes what launches its ranks.

    main([FOLDER, ORDER], SECRET)       ORDER in JSON: see `launch` in jobs/plans.py

SECRET is what the repository asks for, if it does: {"username": …, "password": …} in JSON, and in "variables" the
secret ones of the program's environment. ORDER is in no file: what
lies on /shared other runs can change, and whoever changes it could say where the password is sent. Says what it does in
the log, what it found in the facts (`telling.py`). Standard library only, Python 3.9 or newer.
"""

import contextlib
import json
import os
import pathlib
import shlex
import stat
import sys
import time

import boot
import launcher
import packages
import shared
import source
import telling
from detach import take_back
from programs import SetupFailed

SETUP_FAILED = 70  # EX_SOFTWARE of sysexits.h; facts.json says what failed


class Setup:
    def __init__(self, folder, order, credential=None):
        self.folder = folder
        self.order = order
        self.log = telling.Log(folder)
        self.facts = {"phase": "clone"}  # as the portal takes it to be
        bin_folder = pathlib.Path(order["engine"], "bin")
        self.program = order.get("program") or "python"
        path = {**os.environ, **order["environment"]}.get("PATH", "/usr/bin:/bin")
        variables = (credential or {}).pop("variables", {})  # secret ones
        self.environment = {**order["environment"], **variables, "PATH": f"{bin_folder}:{path}"}
        self.ranks = {
            "size": order["cores"],
            "hostfile": order["hostfile"],
            "engine": order["engine"],
            "command": [self.program if "/" in self.program else str(bin_folder / self.program), *order["command"]],
        }
        if variables:
            self.ranks["hidden"] = list(variables)
        if order.get("notebook"):
            self.ranks["notebook"] = True
        self.credential = credential or None
        self.had_credential = bool(credential)
        self.launcher = None

    def say(self, sentence):
        self.log.say(sentence)

    def know(self, **facts):
        self.facts.update(facts)
        telling.know(self.folder, self.facts)

    # Command

    def begin(self):
        """Meanwhile have mpiexec and what stands around the ranks come up: they wait for the source.

        Not while git knows a password: they are of /shared, where others may have changed them. Whatever is wrong with
        them is said by `command`, which tries again.
        """
        if self.had_credential:
            return
        with contextlib.suppress(OSError, ValueError):
            environment = {**os.environ, **self.environment}
            self.launcher = launcher.Launcher(self.folder, self.ranks, environment)
            self.launcher.start(environment, self.folder / "src", waits=True)

    def end(self):
        """Of what has begun, and is not needed."""
        if self.launcher:
            self.launcher.abandon()
            self.launcher = None

    def command(self, source, packages):
        order = self.order
        os.environ.update(self.environment)
        if packages:
            os.environ["PYTHONPATH"] = str(packages)
        self.say(f"$ mpiexec -n {order['cores']} {self.program} {shlex.join(order['command'])}")
        self.know(phase="run", began=time.time())
        if self.launcher and self.launcher.is_waiting():
            if packages and packages != self.folder / "packages":
                (self.folder / "packages").symlink_to(packages)
            self.launcher.launch(source, self.facts)
        self.end()
        given = [str(self.folder), json.dumps({**self.ranks, "source": str(source), "facts": self.facts})]
        if self.had_credential:
            # A fresh interpreter: what git was given is in nobody's memory any more.
            boot.execute(self.ranks["command"][0], "launcher", given)
        launcher.main(given)


def settle_in(files):
    """What the head node needs to reach the others, as the portal has it: earlier runs may have changed it."""
    for name, text in files.items():
        path = pathlib.Path.home() / name
        take_back(path.parent, stat.S_ISDIR)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        take_back(path, stat.S_ISREG)
        if source.content_of(path) != text.encode():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(text)


def place_of(address):
    """What fetches from there."""
    if address.startswith("s3://"):
        import bucket  # here: no other run is to wait for what it loads

        return bucket
    return shared if address.startswith(f"{shared.ROOT}/") else source


def main(argv, secret=None):
    setup = Setup(pathlib.Path(argv[0]), json.loads(argv[1]), secret and json.loads(secret))
    try:
        settle_in(setup.order.get("home", {}))
        fetched = place_of(setup.order["git_url"]).fetch(setup)
        setup.command(fetched, packages.fetch(setup, fetched, packages.lacking(setup.order)))
    except SetupFailed as failure:
        setup.say(str(failure))
        setup.know(failure=failure.facts)
        setup.end()
        sys.exit(SETUP_FAILED)
    except OSError as error:
        setup.say(str(error))
        setup.know(failure={"message": "The run could not be set up on the head node.", "evidence": str(error)})
        setup.end()
        sys.exit(SETUP_FAILED)
