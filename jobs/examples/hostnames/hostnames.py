"""Is every core of every node there? Each rank tells the name of its node, and rank 0 prints and counts them.

mpiexec -n 6 python hostnames.py
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path


def expected(hostfile: str) -> Counter[str]:
    """How many ranks a hostfile gives each node: lines of `name:cores`, as MPICH's launcher reads them."""
    found: Counter[str] = Counter()
    for line in hostfile.splitlines():
        words = line.split("#")[0].split()
        if words:
            name, _, cores = words[0].partition(":")
            found[name] += int(cores or 1)
    return found


def faults(counted: Mapping[str, int], hostfile: str, nodes: int | None, cores: int | None) -> list[str]:
    """Say in one line each what is not as it should be: against the hostfile, and the cluster's size where known."""
    found = []
    ranks = sum(counted.values())
    if nodes is not None and len(counted) != nodes:
        found.append(f"{len(counted)} nodes answered, of {nodes}")
    if cores is not None and ranks != cores:
        found.append(f"{ranks} ranks ran, on {cores} cores")
    if nodes and cores:
        found += [
            f"{name} ran {count} ranks, not {cores // nodes}"
            for name, count in sorted(counted.items())
            if count != cores // nodes
        ]
    if hostfile:
        wanted = expected(hostfile)
        found += [
            f"{name} ran {counted.get(name, 0)} ranks, and the hostfile gives it {wanted.get(name, 0)}"
            for name in sorted(wanted.keys() | counted.keys())
            if counted.get(name, 0) != wanted.get(name, 0)
        ]
    return found


def number(name: str) -> int | None:
    value = os.environ.get(name)
    return int(value) if value else None


def main() -> int:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    names = world.gather(socket.gethostname())
    wrong: list[str] = []
    if names is not None:
        # All by one rank: what several print reaches the launcher in any order, and the answer has to be last.
        print("\n".join(names))
        counted = Counter(names)
        hostfile = Path("~/hostfile").expanduser()
        cores = number("COXSWAIN_CORES")
        text = hostfile.read_text() if cores == world.size and hostfile.is_file() else ""
        wrong = faults(counted, text, number("COXSWAIN_NODES"), cores)
        for line in wrong:
            print(line, file=sys.stderr, flush=True)
        each = ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))
        verdict = f"wrong in {len(wrong)} ways" if wrong else "right"
        print(f"answer: {verdict}, {world.size} ranks, on each node: {each}", flush=True)
    return world.bcast(1 if wrong else 0)


if __name__ == "__main__":
    sys.exit(main())
