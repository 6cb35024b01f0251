"""What a node's commands find: their environment and the few programs that we put first on their PATH."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from portal.clouds.local.processes import MARK

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SIMULATED = "simulated"  # programs for nodes without a hostname of their own

# The way to the package index and out of here, as the portal itself was told. Not where the portal keeps its caches.
_PASSED_ON = ("PIP_", "UV_")
_PASSED_ON_NAMES = frozenset(
    {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
    | {"NO_PROXY", "FTP_PROXY", "TZ"}
)
_KEPT_BACK = frozenset(
    {"PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_LOG", "PIP_CONFIG_FILE"}
    | {"UV_CACHE_DIR", "UV_PYTHON", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON", "UV_CONFIG_FILE"}
    | {"UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "UV_PYTHON_INSTALL_DIR", "UV_PUBLISH_TOKEN", "UV_PUBLISH_PASSWORD"}
)


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the portal's environment that a node gets: how to reach packages and sources."""
    return {
        name: value
        for name, value in environment.items()
        if (name.startswith(_PASSED_ON) or name.upper() in _PASSED_ON_NAMES) and name not in _KEPT_BACK
    }


def session_environment(
    *, user: str, home: Path, tmp: Path, programs: Path, hostname: str, mark: str, simulated: bool
) -> dict[str, str]:
    """The environment of every command on a node. There is no HOSTNAME: Hydra would give node 0's to all ranks."""
    environment = passed_on(os.environ) | {
        "HOME": str(home),
        "USER": user,
        "LOGNAME": user,
        "SHELL": shell(),
        "LANG": "C.UTF-8",
        "TMPDIR": str(tmp),
        "PATH": f"{programs}:{_SYSTEM_PATH}",
        "PS1": r"\u@\h:\w\$ ",
        "PYTHONUNBUFFERED": "1",  # else a program's lines come all at once at its end
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXEC": str(programs / "ssh"),
        # MPICH's own choice fails when there is no address but loopback's; this works without any network, and as fast.
        "MPIR_CVAR_CH4_NETMOD": "ofi",
        "FI_PROVIDER": "tcp",
        "FI_TCP_IFACE": "lo",
        MARK: mark,
    }
    if simulated:
        environment["COXSWAIN_HOSTNAME"] = hostname
        environment["HYDRA_LAUNCHER_EXEC"] = "ssh"  # Hydra breaks at a blank in a path; ours is the first on PATH
        environment["HYDRA_IFACE"] = (
            "lo"  # else Hydra's proxies look for the computer's name, which may have no address
        )
        environment["PATH"] = f"{programs / _SIMULATED}:{environment['PATH']}"
        environment["PYTHONPATH"] = str(programs / _SIMULATED / "python")
    return environment


def shell() -> str:
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


def base_python() -> Path:
    """The interpreter that the portal's environment was made from: it outlives the portal's environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def needed_folders() -> list[Path]:
    """Folders that programs of a node live in, wherever they are."""
    return [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]


def write_programs(folder: Path) -> None:
    """Fill the folder that comes first on a node's PATH."""
    folder.mkdir(mode=0o755, exist_ok=True)
    # A script and not a link: environments that are made with it name the real interpreter, so they work on all nodes.
    _script(folder / "python3", f'exec {shlex.quote(str(base_python()))} "$@"')
    uv = Path(sys.prefix, "bin", "uv")
    if uv.exists():
        _script(folder / "uv", f'exec {shlex.quote(str(uv))} "$@"')
    openssh = shutil.which("ssh", path=_SYSTEM_PATH)
    if openssh:
        client = shlex.quote(openssh)
    else:
        script = folder / "ssh_client.py"
        script.write_text(Path(__file__).with_name("ssh_client.py").read_text())
        client = f'{shlex.quote(sys.executable)} "$(dirname "$0")/ssh_client.py"'
    # ssh takes ~ from the account, which without namespaces is the portal's own
    _script(
        folder / "ssh", f'[ -f "$HOME/.ssh/config" ] && exec {client} -F "$HOME/.ssh/config" "$@"\nexec {client} "$@"'
    )
    (folder / _SIMULATED / "python").mkdir(parents=True, exist_ok=True)
    _script(folder / _SIMULATED / "hostname", _HOSTNAME)
    (folder / _SIMULATED / "python" / "sitecustomize.py").write_text(_SITECUSTOMIZE)


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


# MPI's launcher gives every rank the environment of node 0. The command that the node's SSH server started itself has
# the right name, so the ancestor nearest to the server is asked.
_HOSTNAME = """\
name=
p=$$
while [ "${p:-1}" -gt 1 ]; do
  found=$(tr '\\0' '\\n' 2>/dev/null < /proc/$p/environ | sed -n 's/^COXSWAIN_HOSTNAME=//p')
  [ -n "$found" ] && name=$found
  p=$(sed 's/.*) . //;s/ .*//' /proc/$p/stat 2>/dev/null)
done
echo "${name:-$COXSWAIN_HOSTNAME}"
"""

_SITECUSTOMIZE = '''\
"""Give this node's simulated name where Python asks for the machine's."""

import os
import socket


def _name():
    name, pid = os.environ.get("COXSWAIN_HOSTNAME"), os.getpid()
    try:
        while pid > 1:
            with open(f"/proc/{pid}/environ", "rb") as file:
                for entry in file.read().split(b"\\0"):
                    if entry.startswith(b"COXSWAIN_HOSTNAME="):
                        name = entry[18:].decode()
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rsplit(") ", 1)[1].split()[1])
    except OSError:
        pass
    return name


_found = _name()
if _found:
    socket.gethostname = lambda: _found
'''


def hosts_file(names: Mapping[str, str]) -> str:
    """/etc/hosts of a node: the cluster's names by address, and what this computer knows besides."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {name}" for address, name in names.items()]
    for line in _lines("/etc/hosts"):
        words = line.split("#")[0].split()
        if len(words) > 1 and "localhost" not in words and not set(names.values()) & set(words[1:]):
            lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def passwd_file(user: str, home: Path) -> str:
    """/etc/passwd of a node: `~` of its user is the node's home, for ssh and everything that asks the account."""
    uid, gid = os.getuid(), os.getgid()
    others = [
        line
        for line in _lines("/etc/passwd")
        if line and line.split(":")[0] != user and line.split(":")[2:3] != [str(uid)]
    ]
    return "\n".join([f"{user}:x:{uid}:{gid}::{home}:{shell()}", *others, ""])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
