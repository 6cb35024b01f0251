"""What a node's commands find: their environment and the few programs that we put first on their PATH."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import asyncssh

from portal.clouds import promises
from portal.clouds.local.identity import INSIDE
from portal.clouds.local.processes import MARK

USER = "node"  # on nodes with namespaces
CLIENT = "ssh_client.py"
WAY_OUT = "COXSWAIN_WAY_OUT"  # where it is set, names of elsewhere are known to that proxy alone
UV = "/.node/uv"
PACKAGES = "/.node/python"

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SIMULATED = "simulated"  # programs for nodes without a hostname of their own


def session_environment(
    *,
    user: str,
    home: Path,
    tmp: Path,
    programs: Path,
    hostname: str,
    mark: str,
    simulated: bool,
    told: Mapping[str, str],
) -> dict[str, str]:
    """The environment of every command on a node. There is no HOSTNAME: Hydra would give node 0's to all ranks.

    `told` is how packages and sources are reached.
    """
    environment = {
        **told,
        "HOME": str(home),
        "USER": user,
        "LOGNAME": user,
        "SHELL": shell(),
        "LANG": "C.UTF-8",
        "TMPDIR": str(tmp),
        "PATH": f"{programs}:{_SYSTEM_PATH}",
        "PS1": r"\u@\h:\w\$ ",
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
    else:
        environment["COXSWAIN_APART"] = "1"  # with the end of a session nothing of it is left, and none sees another
    return environment


def proxy_environment(address: str, port: int, near: Iterable[str]) -> dict[str, str]:
    """What tells programs of the way out, and what they reach without it."""
    proxy, direct = f"http://{address}:{port}", ",".join(near)
    names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return dict.fromkeys(names, proxy) | dict.fromkeys(("no_proxy", "NO_PROXY"), direct) | {WAY_OUT: proxy}


def shell() -> str:
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


def base_python() -> Path:
    """The interpreter that the portal's environment was made from: it outlives the portal's environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def needed_places() -> list[Path]:
    """What programs of a node are made of: the interpreter, wherever it is, and never the portal's environment."""
    return [Path(sys.base_prefix).resolve(), base_python()]


def uv_program() -> Path | None:
    uv = Path(sys.prefix, "bin", "uv")
    return uv.resolve() if uv.exists() else None


def client_packages() -> list[Path]:
    """What our own small ssh is made of, where there is no OpenSSH."""
    folder = Path(asyncssh.__file__).parent.parent
    names = ("asyncssh", "cryptography", "cffi", "_cffi_backend*", "pycparser", "typing_extensions.py", "bcrypt")
    return [path for name in names for path in folder.glob(name)]


def write_programs(folder: Path) -> None:
    """Fill the folder that comes first on a node's PATH."""
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)
    # A script and not a link: environments that are made with it name the real interpreter, so they work on all nodes.
    _script(folder / "python3", f'exec {shlex.quote(str(base_python()))} "$@"')
    if (uv := uv_program()) is not None:  # where there is a view, it stands in a place of its own there
        _script(folder / "uv", f'[ -x {UV} ] && exec {UV} "$@"\nexec {shlex.quote(str(uv))} "$@"')
    openssh = shutil.which("ssh", path=_SYSTEM_PATH)
    if openssh:
        client = shlex.quote(openssh)
    else:
        script = folder / CLIENT
        script.write_text(Path(__file__).with_name(CLIENT).read_text())
        script.chmod(0o644)
        # Links, because Python lists the folder that it imports from, and that of the portal's packages is not shown.
        links = folder / "packages"
        links.mkdir(exist_ok=True)
        for package in client_packages():
            (links / package.name).unlink(missing_ok=True)
            (links / package.name).symlink_to(package)
        packages = shlex.quote(str(links))
        _script(
            folder / "ssh_client",
            f"if [ -d {PACKAGES} ]; then PYTHONPATH={PACKAGES}; else PYTHONPATH={packages}; fi\nexport PYTHONPATH\n"
            f'exec {shlex.quote(str(base_python()))} "$(dirname "$0")/{CLIENT}" "$@"',
        )
        client = '"$(dirname "$0")/ssh_client"'
    # ssh takes ~ from the account, which without namespaces is the portal's own
    others = f'[ -f "$HOME/.ssh/config" ] && exec {client} -F "$HOME/.ssh/config" "$@"\nexec {client} "$@"'
    _script(folder / "ssh", promises.ssh(client, others))
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


def hosts(names: Mapping[str, str]) -> str:
    """The file /etc/hosts. `names` are the cluster's, by address."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {name}" for address, name in names.items()]
    return "\n".join([*lines, ""])


def account_files(hostname: str, home: Path) -> dict[str, str]:
    """The files of /etc that say who and where one is."""
    return {
        "hostname": f"{hostname}\n",
        "passwd": f"root:x:0:0::/:/bin/false\n{USER}:x:{INSIDE}:{INSIDE}::{home}:{shell()}\n",
        "group": f"root:x:0:\ntty:x:5:\n{USER}:x:{INSIDE}:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "resolv.conf": "",  # names of elsewhere are the way out's to look up
    }
