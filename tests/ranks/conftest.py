"""Three real nodes with MPI, and programs on them as the portal launches those: kept by the node, watched by nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from pathlib import Path

import pytest

from portal import detached
from portal.clouds.local import LocalCloud, LocalOptions
from tests.clouds import hands
from tests.running import ROOT, until

PROGRAMS = detached.Programs(ROOT / "jobs" / "onnode", loads=("launcher",))
JOBS = detached.Programs(ROOT / "jobs" / "onnode", loads=("job",))
PROGRAMS_OF_MPI = Path(__file__).parent / "programs"


class Ended:
    """How a run ended: `verdict` and `exit` as the node wrote them, and what each rank printed."""

    def __init__(self, folder: Path, *, quick: bool = False):
        """`quick`: of a large log, only its `size` without what belongs to the frames."""
        self.exit = json.loads((folder / "exit").read_text())
        self.verdict = json.loads((folder / "verdict.json").read_text())
        self.seconds = self.exit["ended"] - json.loads((folder / "begun").read_text())["at"]
        if quick:
            self.size = _size_of(folder / "log")
            return
        self.frames = [frame for frame, _ in detached.frames((folder / "log").read_bytes())[0]]
        self.streams: dict[tuple[str, int, int | None], bytes] = defaultdict(bytes)
        for frame in self.frames:
            self.streams[frame.kind, frame.world, frame.rank] += frame.data

    @property
    def why(self):
        return json.dumps(self.verdict, indent=1)

    @property
    def failures(self):
        return self.verdict["failures"]

    @property
    def first(self):
        return self.failures[0] if self.failures else None

    def out(self, rank, world=0):
        return self.streams["o", world, rank]

    def err(self, rank, world=0):
        return self.streams["e", world, rank]


class Nodes:
    def __init__(self, cloud: LocalCloud, count: int = 3, cores: int = 2):
        self.cloud, self.cores = cloud, cores
        self.workspace, self.tags = hands.deploy(cloud)
        cloud.ensure_nodes(hands.spec(self.tags, count))
        self.nodes = hands.up(cloud, self.tags, count)
        hands.introduce(self.nodes, cores)
        folder = cloud._workspace(self.tags).cluster(self.tags.subject)
        self.shared = folder.shared
        self.folder = folder
        install_engine(self.shared / "engine")
        hands.give(cloud, self.tags, self.shared)

    def restore(self):
        """Make the nodes again that a test has ended."""
        self.cloud.ensure_nodes(hands.spec(self.tags, len(self.nodes)))
        self.nodes = hands.up(self.cloud, self.tags, len(self.nodes))

    def host(self, rank=0):
        return hands.host(self.nodes[rank])

    def start(self, command, *, files=(), size=None, nodes=None, env=None, seconds=None, alone=""):
        """Its folder, as this computer sees it."""
        run = str(uuid.uuid4())
        here = self.shared / ".runs" / run
        src = self.shared / "src" / run
        src.mkdir(parents=True)
        for name in files:
            shutil.copy(PROGRAMS_OF_MPI / name, src / name)
        head = self.nodes[0]
        hostfile = src / "hosts"
        chosen = self.nodes[: nodes or len(self.nodes)]
        hostfile.write_text("".join(f"{node.hostname}:{self.cores}\n" for node in chosen))
        hands.give(self.cloud, self.tags, self.shared)
        inside = Path(head.shared)
        order = {
            "size": size or self.cores * len(chosen),
            "hostfile": str(inside / "src" / run / "hosts"),
            "engine": str(inside / "engine"),
            "command": [str(inside / "engine/bin/python") if word == "python" else word for word in command],
            "facts": {"phase": "run"},
            "source": str(inside / "src" / run),
        }
        variables = {"COXSWAIN_RUN": run, **(env or {})}
        variables["PATH"] = f"{inside}/engine/bin:/usr/local/bin:/usr/bin:/bin"
        detached.start(
            self.host(),
            str(inside / ".runs" / run),
            argv=[str(inside / ".runs" / run), json.dumps(order)],
            program="launcher",
            programs=PROGRAMS,
            env=variables,
            seconds=seconds,
            alone=alone,
        )
        return here

    def start_job(self, url, *command, size=None, program="python", **more):
        """As the portal starts one: with its source, and what its source asks for. Its folder, as this computer sees
        it."""
        run, head = str(uuid.uuid4()), self.nodes[0]
        inside = f"{head.shared}/.runs/{run}"
        order = {
            "git_url": url,
            "reference": "",
            "program": program,
            "command": list(command),
            "cores": size or self.cores * len(self.nodes),
            "hostfile": f"{head.home}/hostfile",
            "engine": f"{head.shared}/engine",
            "shared": head.shared,
            "scratch": f"{head.home}/.scratch",
            "allow_this_machine": True,
            "environment": {"COXSWAIN_RUN": run},
        }
        detached.start(
            self.host(),
            inside,
            argv=[inside, json.dumps(order)],
            program="job",
            programs=JOBS,
            env={"COXSWAIN_RUN": run},
            **more,
        )
        return self.shared / ".runs" / run

    def run(self, *command, seconds=40, quick=False, **options):
        folder = self.start(command, **options)
        until((folder / "exit").exists, seconds=seconds, what=f"the end of {command}")
        return Ended(folder, quick=quick)

    def kill(self, folder):
        """Whether it has ended."""
        detached.send_signal(self.host(), f"/shared/.runs/{folder.name}", "KILL")
        return (folder / "exit").exists()

    def found(self):
        """{pid: command} of what runs on them."""
        return hands.of_people(self.folder)

    def processes(self):
        return list(self.found().values())


def _size_of(log: Path) -> int:
    """Bytes of output in it."""
    total = 0
    with log.open("rb") as file:
        while head := file.read(19):
            size = int.from_bytes(head[7:11], "big")
            total += size
            file.seek(size, os.SEEK_CUR)
    return total


def install_engine(place: Path):
    uv = Path(sys.prefix, "bin", "uv")
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    commands = [
        [uv, "venv", "--quiet", "--python", base, place],
        [uv, "pip", "install", "--quiet", "--python", place / "bin/python", "--link-mode", "copy",
         "mpich==5.0.2", "mpi4py==4.1.2", "schwimmbad==0.4.2"],
    ]  # fmt: skip
    for command in commands:
        subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.fixture(scope="session")
def three():
    data = Path(tempfile.mkdtemp(prefix="ranks-", dir=ROOT / "var" if os.access(ROOT / "var", os.W_OK) else None))
    cloud = LocalCloud(data / "local", hidden=[data], options=LocalOptions(git_here=True))
    nodes = Nodes(cloud)
    yield nodes
    cloud.delete_nodes(nodes.tags)
    cloud.power_off()
    shutil.rmtree(data, ignore_errors=True)
