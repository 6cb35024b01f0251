"""`tiny.py first|last`: as little of cloud-init as our user data needs, in cloud-init's order, on the node, as root.

What it does not know stops the boot: user data that has more in it than this is not believed.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

GIVEN = Path("/run/room/user-data")
DONE = Path("/var/lib/cloud/instance/sem/first-boot")
EACH_BOOT = Path("/var/lib/cloud/scripts/per-boot")
KNOWN = {
    "": {
        "hostname", "prefer_fqdn_over_hostname", "manage_etc_hosts", "disable_root", "ssh_pwauth", "ssh_deletekeys",
        "ssh_keys", "users", "package_update", "packages", "mounts", "write_files", "bootcmd", "runcmd",
    },
    "users": {"name", "uid", "shell", "lock_passwd", "ssh_authorized_keys", "sudo"},
    "write_files": {"path", "content", "permissions", "owner", "defer"},
}  # fmt: skip


def main(stage: str) -> None:
    config = read(GIVEN.read_text())
    is_first = not DONE.exists()
    print(f"tiny engine of user data, {stage} stage, {'first' if is_first else 'another'} boot", flush=True)
    if stage == "first":
        if is_first:
            run_all(config.get("bootcmd", []))
            for file in config.get("write_files", []):
                if not file.get("defer"):
                    write(file)
            add_mounts(config.get("mounts", []))
        subprocess.run(["mount", "-a"], check=False)  # one that fails does not end a boot
        name = config.get("hostname", "")
        if name:
            Path("/etc/hostname").write_text(name + "\n")
            subprocess.run(["hostname", name], check=True)
        if is_first:
            for user in config.get("users", []):
                add(user)
            take_host_keys(config.get("ssh_keys", {}))
    else:
        if is_first:
            for file in config.get("write_files", []):
                if file.get("defer"):
                    write(file)
            run_all(config.get("runcmd", []))
            DONE.parent.mkdir(parents=True)
            DONE.touch()
        for script in sorted(EACH_BOOT.glob("*")):
            if os.access(script, os.X_OK):
                done = subprocess.run([script], check=False)
                print(f"{script.name}: exit status {done.returncode}", flush=True)


def read(text: str) -> dict[str, Any]:
    first, _, rest = text.partition("\n")
    if first != "#cloud-config":
        sys.exit(f"user data begins with {first!r}, and not with #cloud-config")
    config: dict[str, Any] = json.loads(rest)
    for place, known in KNOWN.items():
        for part in config.get(place, []) if place else [config]:
            if unknown := set(part) - known:
                sys.exit(f"user data has what this engine does not know: {place} {sorted(unknown)}")
    return config


def run_all(commands: list[Any]) -> None:
    for command in commands:
        done = subprocess.run(command, shell=isinstance(command, str), check=False)
        print(f"{command}: exit status {done.returncode}", flush=True)


def write(file: dict[str, Any]) -> None:
    path = Path(file["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.get("content", ""))
    path.chmod(int(file.get("permissions", "0644"), 8))
    if "owner" in file:
        user, _, group = file["owner"].partition(":")
        shutil.chown(path, user, group or None)


def add_mounts(mounts: list[list[str]]) -> None:
    with open("/etc/fstab", "a") as table:
        for mount in mounts:
            Path(mount[1]).mkdir(parents=True, exist_ok=True)
            table.write("\t".join(mount) + "\n")


def add(user: dict[str, Any]) -> None:
    name = user["name"]
    uid = ["--uid", str(user["uid"])] if "uid" in user else []
    subprocess.run(["useradd", "-m", "-s", user.get("shell", "/bin/sh"), *uid, name], check=True)
    keys = Path(pwd.getpwnam(name).pw_dir) / ".ssh"
    keys.mkdir(mode=0o700)
    (keys / "authorized_keys").write_text("".join(f"{key}\n" for key in user.get("ssh_authorized_keys", [])))
    for path in (keys, keys / "authorized_keys"):
        shutil.chown(path, name, name)
    (keys / "authorized_keys").chmod(0o600)
    if user.get("sudo"):
        write({"path": "/etc/sudoers.d/90-cloud-init-users", "content": f"{name} {user['sudo']}\n",
               "permissions": "0440"})  # fmt: skip


def take_host_keys(keys: dict[str, str]) -> None:
    for name, text in keys.items():
        kind, _, half = name.partition("_")
        path = Path(f"/etc/ssh/ssh_host_{kind}_key" + (".pub" if half == "public" else ""))
        path.write_text(text if text.endswith("\n") else text + "\n")
        path.chmod(0o644 if half == "public" else 0o600)


if __name__ == "__main__":
    main(sys.argv[1])
