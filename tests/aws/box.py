"""AWS in a box: an emulator that others wrote, moto, and a machine room that has a real node behind each instance.

All of it listens on addresses of 127.0.0.0/8 and belongs to the process that made it: it ends with that one, however it
ends, and nothing of it is left. Boxes side by side do not meet: each has ports and a /16 for networks of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
from botocore.config import Config

from portal.clouds.aws import policy
from tests.aws.recording import ROOM, Call, Recording
from tests.machines.computers import why_not as no_computers
from tests.running import ROOT, free_port, until

PORTAL = "123456789012"  # whose principal the portal is: moto's own
CUSTOMER, OTHER = "222233334444", "555566667777"
REGION = "us-east-2"
NEEDS_NOTHING = {"sts:GetCallerIdentity"}  # whoever asks, whatever they may do
# moto checks what it is asked as far as it can.
STRICT = {
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
    "MOTO_ENABLE_AMI_VALIDATION": "true",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
}


def why_not() -> str:
    """Why there can be none here; nothing where there can."""
    why = no_computers()
    return "only root can make nodes with disks, users and an SSH server at port 22" if "root" in why else why


def unpacked(packages: Path, folder: Path) -> None:
    """Debian packages as a layer over this computer's system: `Box(layers=...)`."""
    for name in ("bin", "sbin", "lib", "lib64"):
        link = Path("/", name)
        if link.is_symlink():  # else a package that has files there would hide all others
            (folder / link.readlink()).mkdir(parents=True)
            (folder / name).symlink_to(link.readlink())
    for package in sorted(packages.glob("*.deb")):
        content = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True).stdout
        subprocess.run(["tar", "--keep-directory-symlink", "-x", "-C", folder], input=content, check=True)


def end_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def plain_environment(**more: str) -> dict[str, str]:
    """Nothing that would lead an SDK to a real account."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))} | more


def settings(endpoint: str) -> dict[str, str]:
    """Of a portal whose AWS is there, and reaches nodes at the addresses that they have in their network."""
    return {
        "AWS_ACCESS_KEY_ID": "portal",
        "AWS_SECRET_ACCESS_KEY": "portal",
        "PORTAL_AWS_ENDPOINT": endpoint,
        "PORTAL_AWS_PRINCIPAL": f"arn:aws:iam::{PORTAL}:role/portal",
        "PORTAL_AWS_ADDRESSES": "127.0.0.0/8",
        "PORTAL_AWS_REACH": "private",
    }


def client(endpoint: str, service: str, account: str = CUSTOMER, *, region: str = REGION, **options: Any) -> Any:
    """As the owner of an account of moto's has it, who may do everything."""
    session = boto3.Session("owner", "owner", region_name=region)
    config = Config(
        user_agent_extra=ROOM, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **options
    )
    made = session.client(service, endpoint_url=endpoint, config=config)
    made.meta.events.register(
        "before-sign.*.*", lambda request, **_: request.headers.add_header("x-moto-account-id", account)
    )
    return made


class Octet:
    """The N of 127.N.0.0/16, which is nobody else's while this lives: the kernel keeps the name, and gives it back."""

    def __init__(self) -> None:
        for n in range(120):
            number = 130 + (os.getpid() + n) % 120
            name = socket.socket(socket.AF_UNIX)
            try:
                name.bind(f"\0coxswain-aws-{number}")
            except OSError:
                name.close()
                continue
            self.number, self.name = number, name
            return
        raise RuntimeError("all of 127.130.0.0 to 127.249.0.0 are taken")


class Emulator:
    """moto, with an empty world."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        (folder / "consoles").mkdir(exist_ok=True)
        record = {"MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": str(folder / "recording")}
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.aws.emulator", str(self.port), str(folder / "consoles")],
                cwd=ROOT, env=plain_environment(**STRICT, **record), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=end_with_us, start_new_session=True,
            )  # fmt: skip
        try:
            until(self._answers, seconds=180, what="moto")  # five seconds of a core, which others may want too
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "moto.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def client(self, service: str, account: str = CUSTOMER, **more: Any) -> Any:
        return client(self.endpoint, service, account, **more)

    def recording(self) -> list[Call]:
        """All that was asked since it was started."""
        return Recording(self.folder / "recording").more()

    def asked(self) -> set[str]:
        """The actions that were asked for in the name of a configuration's role."""
        return {call.action for call in self.recording() if call.is_of_a_role}

    def close(self) -> None:
        """Whatever the portal asked for until now is in the policy: the emulator itself would not have refused."""
        self.process.kill()
        self.process.wait()
        beyond = sorted(self.asked() - policy.ACTIONS - NEEDS_NOTHING)
        assert not beyond, beyond


class Box:
    """The emulator and the room. Leaving the block ends both."""

    def __init__(
        self,
        *,
        accounts: Sequence[str] = (CUSTOMER, OTHER),
        engine: str = "tiny",
        layers: str = "",
        hidden: Sequence[Path] = (),
    ) -> None:
        if why := why_not():
            raise RuntimeError(why)
        self.octet = Octet()
        self.net = f"127.{self.octet.number}.0.0/16"  # for a workspace's network
        self.folder = Path(tempfile.mkdtemp(prefix="cx-aws-"))
        self.room: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()
        try:
            self.emulator = Emulator(self.folder)
        except BaseException:
            shutil.rmtree(self.folder)
            self.octet.name.close()
            raise
        self.endpoint = self.emulator.endpoint
        order = {
            "endpoint": self.endpoint,
            "accounts": accounts,
            "regions": [REGION],
            "folder": str(self.folder),
            "engine": engine,
            "layers": layers,
            "hidden": [str(ROOT), sys.prefix, os.environ.get("PORTAL_VENV", sys.prefix), *map(str, hidden)],
        }
        with (self.folder / "room.log").open("w") as log:
            self.room = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                 sys.executable, "-m", "tests.aws.room", json.dumps(order)],
                cwd=ROOT, env=plain_environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                preexec_fn=end_with_us, start_new_session=True,
            )  # fmt: skip
        try:
            assert self._hear() == "open"
        except BaseException:
            self.close()
            raise

    def _hear(self) -> Any:
        assert self.room
        assert self.room.stdout
        line = self.room.stdout.readline()
        assert line, f"The machine room has ended: {self.log()}"
        return json.loads(line)

    def tell(self, do: str, **words: Any) -> Any:
        """What tests ask of the room: see `Room.answer`."""
        with self.lock:
            assert self.room
            assert self.room.stdin
            self.room.stdin.write(json.dumps({"do": do, **words}) + "\n")
            self.room.stdin.flush()
            return self._hear()

    @property
    def settings(self) -> dict[str, str]:
        """Of a portal whose AWS this is."""
        return settings(self.endpoint)

    def client(self, service: str, account: str = CUSTOMER, **more: Any) -> Any:
        return self.emulator.client(service, account, **more)

    def console(self, instance: str) -> str:
        path = self.folder / "consoles" / instance
        return path.read_text(errors="replace") if path.exists() else ""

    def log(self) -> str:
        """What the room and the emulator had to say, for whom something has gone wrong."""
        with contextlib.suppress(OSError):
            return "\n".join((self.folder / name).read_text()[-3000:] for name in ("room.log", "moto.log"))
        return ""

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self.room:
            with contextlib.suppress(BrokenPipeError):
                self.room.kill()
            self.room.communicate()
        try:
            self.emulator.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.octet.name.close()
