"""User data: what cloud-init is told, and that the pieces of it do what they are for."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from portal import ssh
from portal.clouds import HostKey
from portal.clouds.bootstrap import MOST, OWN_KEY, READY, UID, Boot, Mount, user_data

from . import hands

NFS = Mount("fs-1.efs.example.org:/", "nfs4", "nfsvers=4.1,hard,_netdev,nofail")


def boot(**more):
    key = HostKey(hands.private("host 0"), hands.public("host 0"))
    return Boot("demo-0", key, (hands.public("portal"), hands.public("cluster")), **more)


def told(text):
    first, rest = text.split("\n", 1)
    assert first == "#cloud-config"
    return json.loads(rest)


def test_a_node_has_its_name_and_host_key_before_anybody_can_connect():
    asked = boot()
    config = told(user_data(asked))
    assert config["hostname"] == "demo-0"
    assert config["ssh_deletekeys"]
    assert config["ssh_keys"] == {
        "ed25519_private": asked.host_key.private,
        "ed25519_public": asked.host_key.public,
    }
    assert not config["manage_etc_hosts"]


def test_only_our_keys_get_in_and_nobody_is_root():
    config = told(user_data(boot()))
    (user,) = config["users"]
    files = {file["path"]: file["content"] for file in config["write_files"]}
    assert files["/etc/ssh/coxswain_keys"].splitlines() == [hands.public("portal"), hands.public("cluster")]
    assert "AuthorizedKeysFile /etc/ssh/coxswain_keys " in files["/etc/ssh/sshd_config.d/50-coxswain.conf"]
    assert "ssh_authorized_keys" not in user
    assert (user["lock_passwd"], "sudo" in user, config["disable_root"], config["ssh_pwauth"]) == (
        True, False, True, False,
    )  # fmt: skip


def test_the_only_secret_in_it_is_the_host_key():
    text = user_data(boot(mount=NFS))
    assert text.count("PRIVATE KEY") == 2
    assert "PRIVATE" not in repr(boot())


def test_it_fits_what_clouds_take_and_more_is_refused():
    assert len(user_data(boot(mount=NFS))) < MOST / 2
    with pytest.raises(ValueError, match="bytes of user data"):
        user_data(boot(packages=("x" * MOST,)))


def test_the_shared_filesystem_is_tried_again_until_it_is_mounted_and_is_the_users(tmp_path):
    """With programs of ours in place of those that need root; `mount` fails twice, as before its package is there."""
    config = told(user_data(boot(mount=NFS)))
    assert config["mounts"] == [[NFS.source, "/shared", "nfs4", NFS.options, "0", "0"]]
    (script,) = [file for file in config["write_files"] if "per-boot" in file["path"]]
    said = tmp_path / "said"
    programs = {
        "mountpoint": f"test -f {tmp_path}/mounted",
        "mount": f'echo "mount $*" >> {said}; [ $(wc -l < {said}) -lt 3 ] && exit 32; touch {tmp_path}/mounted',
        "sleep": ":",
        "stat": "echo 0",
        "chown": f'echo "chown $*" >> {said}',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    text = script["content"].replace(READY, str(tmp_path / "ready"))
    subprocess.run(["/bin/sh", "-eu", "-c", text], env=environment, check=True, timeout=20)
    assert (tmp_path / "ready").exists()
    assert said.read_text().splitlines() == ["mount /shared"] * 3 + [f"chown {UID}:{UID} /shared"]


@pytest.mark.parametrize(
    ("kind", "given", "own"), [("ssh-ed25519", "ed25519", "ecdsa"), ("ecdsa-sha2-nistp256", "ecdsa", "ed25519")]
)
def test_a_node_makes_a_host_key_of_another_kind_once_and_shows_both(tmp_path, kind, given, own):
    private, public = ssh.new_key("demo-0", kind)
    config = told(user_data(Boot("demo-0", HostKey(private, public), (hands.public("portal"),))))
    assert set(config["ssh_keys"]) == {f"{given}_private", f"{given}_public"}
    files = {file["path"]: file["content"] for file in config["write_files"]}
    shown = [line for line in files["/etc/ssh/sshd_config.d/50-coxswain.conf"].splitlines() if "HostKey " in line]
    assert shown == [f"HostKey /etc/ssh/ssh_host_{given}_key", f"HostKey {OWN_KEY.removesuffix('.pub')}"]
    ((shell, flag, script),) = config["bootcmd"]
    seen = set()
    for _ in range(2):  # each boot
        subprocess.run([shell, flag, script.replace("/etc/ssh", str(tmp_path))], check=True, timeout=20)
        seen.add((tmp_path / "coxswain_host_key.pub").read_text())
    (key,) = seen
    assert own in key.split()[0]
    assert (tmp_path / "coxswain_host_key").stat().st_mode & 0o077 == 0
    assert (tmp_path / "sshd_config.d/51-coxswain.conf").read_text().startswith("SetEnv HYDRA_IFACE=")


def test_without_a_mount_nothing_is_mounted_and_an_image_with_everything_installs_nothing():
    config = told(user_data(boot(packages=())))
    assert not {"mounts", "packages", "package_update"} & set(config)
    (script,) = [file["content"] for file in config["write_files"] if "scripts" in file["path"]]
    assert "mount" not in script
