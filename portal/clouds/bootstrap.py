"""What a new computer is told so that it becomes a node: user data for cloud-init, as all clouds with images take it.

It is JSON, which is YAML too, so that no key is ever folded. Whoever is on a node can read its user data. The host key
in it is therefore for the first connection alone: a node makes another one for itself, which nobody but its root can
read, and shows both from its first moment on. Nothing else in it is a secret.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from portal.clouds import promises
from portal.clouds.types import HostKey

USER = "coxswain"
UID = 20000  # the same on all nodes: files on /shared belong to it
MOST = 16 << 10  # bytes that EC2 takes, before base64
OWN_KEY = "/etc/ssh/coxswain_host_key.pub"  # the public half of the host key that a node has made for itself
READY = "/run/coxswain/ready"  # is there once a node is all that was promised; /run is empty after each start

_PACKAGES = ("git", "nfs-common", "python3-venv")
# MPICH's UCX uses EFA where it finds these libraries and a device, and TCP where it does not.
_EFA = ("ibverbs-providers",)


@dataclass(frozen=True)
class Mount:
    """A line of /etc/fstab."""

    source: str  # HOST:PATH, for NFS
    kind: str
    options: str
    target: str = "/shared"


@dataclass(frozen=True)
class Boot:
    hostname: str
    host_key: HostKey
    authorized_keys: tuple[str, ...]
    mount: Mount | None = None
    packages: tuple[str, ...] = _PACKAGES  # none for an image that has them: installing takes up to a minute
    efa: bool = False  # it has an interface of that kind


# The portal holds many sessions over one connection, and asks often. `AcceptEnv` is among the promises.
_SSHD = """\
PasswordAuthentication no
PermitRootLogin no
MaxSessions 256
MaxStartups 100:30:200
ClientAliveInterval 15
ClientAliveCountMax 4
AcceptEnv COXSWAIN_* LC_*
AuthorizedKeysFile {keys} .ssh/authorized_keys
HostKey {given}
HostKey {own}
"""

# A server shows one key of each kind, so the node's own is of another kind than the one that it was given.
_KINDS = {"ssh-ed25519": ("ed25519", "ecdsa"), "ecdsa-sha2-nistp256": ("ecdsa", "ed25519")}

# Before the SSH server starts, and out of the reach of cloud-init, which deletes an image's host keys. MPICH's proxies
# are told where they were started from by this computer's name, which no other knows; by an interface, its address.
_FIRST = """\
own={own}
mkdir -p /etc/ssh/sshd_config.d
[ -s "$own.pub" ] || {{ rm -f "$own"; ssh-keygen -q -t {kind} -N '' -C {hostname} -f "$own"; }}
here=$(awk '$2 == "00000000" {{ print $1; exit }}' /proc/net/route)
echo "SetEnv HYDRA_IFACE=${{here:-lo}}" > /etc/ssh/sshd_config.d/51-coxswain.conf
"""

_KEYS = "/etc/ssh/coxswain_keys"  # root's: what runs on the node lets nobody else in by it, and nobody out

# Not an `Include` in the system's ssh_config: a file of one user's there ends the `ssh` of all others, root's too.
_SSH = "#!/bin/sh\n" + promises.ssh("/usr/bin/ssh", 'exec /usr/bin/ssh "$@"') + "\n"

_EACH_BOOT = "/var/lib/cloud/scripts/per-boot/50-coxswain"

# cloud-init mounts before it installs what mounting needs, so the first try of its own may have failed.
_MOUNT = """\
tries=0
until mountpoint -q {target} || mount {target}; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || exit 1
  sleep 2
done
[ "$(stat -c %u {target})" = {uid} ] || chown {uid}:{uid} {target}
"""

_LAST = """\
mkdir -p "${ready%/*}"
touch "$ready"
"""


def user_data(boot: Boot) -> str:
    """For cloud-init 22 and newer. Raises `ValueError` where it is longer than clouds take.

    A node of it has a host key of its own at OWN_KEY, and says by READY that it is all that was promised.
    """
    given, kind = _KINDS[boot.host_key.public.split()[0]]
    own = OWN_KEY.removesuffix(".pub")
    sshd = _SSHD.format(keys=_KEYS, given=f"/etc/ssh/ssh_host_{given}_key", own=own)
    last = [f"#!/bin/sh\nready={READY}\n"]
    files = [
        {"path": "/etc/ssh/sshd_config.d/50-coxswain.conf", "content": sshd},
        {"path": "/usr/local/bin/ssh", "permissions": "0755", "content": _SSH},
        {"path": _KEYS, "content": "".join(f"{key}\n" for key in boot.authorized_keys)},
    ]
    config: dict[str, Any] = {
        "hostname": boot.hostname,
        "prefer_fqdn_over_hostname": False,
        "manage_etc_hosts": False,  # it would make the node's own name an address of the loopback, which MPI then uses
        "disable_root": True,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {f"{given}_private": boot.host_key.private, f"{given}_public": boot.host_key.public},
        "bootcmd": [["sh", "-c", _FIRST.format(own=own, kind=kind, hostname=shlex.quote(boot.hostname))]],
        "users": [
            {
                "name": USER,
                "uid": UID,
                "shell": "/bin/bash",
                "lock_passwd": True,
            }
        ],
    }
    if boot.packages:
        packages = [*boot.packages, *(_EFA if boot.efa else ())]
        config |= {"package_update": True, "packages": packages}
    if boot.efa:  # its memory is not swapped out while the device writes to it
        files.append({"path": "/etc/security/limits.d/50-coxswain.conf", "content": "* - memlock unlimited\n"})
    if boot.mount:
        mount = boot.mount
        config["mounts"] = [[mount.source, mount.target, mount.kind, mount.options, "0", "0"]]
        last.append(_MOUNT.format(target=shlex.quote(mount.target), uid=UID))
    last.append(_LAST)
    files.append({"path": _EACH_BOOT, "permissions": "0755", "content": "".join(last)})
    text = "#cloud-config\n" + _json(config | {"write_files": files})
    if len(text.encode()) > MOST:
        raise ValueError(f"{len(text.encode())} bytes of user data, and clouds take {MOST}")
    return text


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=1) + "\n"
