"""Runs on the head node: fetches a job's source and packages, then becomes its `mpiexec`.

    python3 job.py FOLDER        with FOLDER/job.json: see `launch` in jobs/plans.py

Called as `main([FOLDER], secret)` it also has what the repository asks for: {"username": …, "password": …}, and as
"order" what is in job.json: that lies on /shared, and whoever could change it could say where the password is sent.

Writes what it does to FOLDER/setup, what it found to FOLDER/facts.json, and becomes the command, so that the exit
status is the command's. Standard library only, Python 3.9 or newer.
"""

import json
import os
import pathlib
import shlex
import sys
import time

import packages
import source
from programs import SetupFailed

SETUP_FAILED = 70  # EX_SOFTWARE of sysexits.h; facts.json says what failed

# Runs around every rank; writes down the first one to fail, because mpiexec does not say which it was.
RANK = """#!/bin/sh
"$@"
status=$?
[ $status -eq 0 ] || echo "${PMI_RANK:-?} $status $(hostname)" >> "$COXSWAIN_NOTES"
exit $status
"""


class Setup:
    def __init__(self, folder, credential=None):
        self.folder = folder
        self.credential = credential
        self.order = (credential or {}).get("order") or json.loads((folder / "job.json").read_text())
        self.log = (folder / "setup").open("ab", buffering=0)
        self.facts = {"phase": "clone"}  # as the portal takes it to be

    def say(self, sentence):
        self.log.write(f"{sentence}\n".encode(errors="replace"))

    def know(self, **facts):
        self.facts.update(facts)
        draft = self.folder / "facts.new"
        draft.write_text(json.dumps(self.facts))
        draft.replace(self.folder / "facts.json")

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
        fetched = source.fetch(setup)
        setup.command(fetched, packages.fetch(setup, fetched))
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
