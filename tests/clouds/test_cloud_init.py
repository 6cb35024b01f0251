"""User data, booted with the real cloud-init and the real SSH server, in an overlay of this computer's own system.

Without them on this computer: CLOUD_INIT_DEBS names a folder with Debian packages of them, and of what they need.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from portal.clouds import HostKey
from portal.clouds.bootstrap import UID, Boot, Mount, user_data
from portal.clouds.promises import PROMISES, SSH_CONFIG

from . import hands

pytestmark = pytest.mark.slow

DEBS = os.environ.get("CLOUD_INIT_DEBS", "")
SHARED = Mount("tmpfs", "tmpfs", "size=8m")  # mounted as any other, and needs no server


def why_not():
    if os.geteuid():
        return "only root can make an overlay"
    if not DEBS and not (shutil.which("cloud-init") and Path("/usr/sbin/sshd").exists()):
        return "there is no cloud-init or no SSH server, and no CLOUD_INIT_DEBS"
    return ""


@pytest.mark.timeout(300)
def test_a_bare_image_becomes_a_node_and_stays_one_when_it_boots_again(tmp_path):
    if why := why_not():
        pytest.skip(why)
    key = HostKey(hands.private("host 0"), hands.public("host 0"))
    boot = Boot("demo-0", key, (hands.public("portal"), hands.public("cluster")), SHARED, packages=())
    asks = [
        'test "$(hostname)" = demo-0',
        f'test "$(id -un) $(id -u)" = "coxswain {UID}"',
        "touch /shared/written",
        "test ! -s ~/.ssh/authorized_keys",
        "! sudo -n true 2>/dev/null",
        *(promise.test for promise in PROMISES),
        # What stands there for others does not matter on the way to a host that is named, and does to any other.
        f"cd && mkdir -p -m 700 .ssh .coxswain && printf 'Host a-name\\n  User ours\\n' > {SSH_CONFIG} && "
        "echo Nonsense > .ssh/config && ssh -G a-name | grep -x 'user ours' && ! ssh -G other && "
        "printf 'User theirs\\n' > .ssh/config && ssh -G other | grep -x 'user theirs'",
    ]
    (tmp_path / "user-data").write_text(user_data(boot))
    (tmp_path / "key").write_text(hands.private("portal"))
    (tmp_path / "known").write_text(f"[127.0.0.1]:2299 {key.public}\n")
    (tmp_path / "asks").write_text("".join(f"( {ask} ) >&2 || echo {n}\n" for n, ask in enumerate(asks)))
    done = subprocess.run(
        ["unshare", "-mupf", "--kill-child", "sh", str(Path(__file__).with_name("boot.sh")), str(tmp_path), DEBS],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert (done.returncode, [asks[int(n)] for n in done.stdout.split()]) == (0, []), done.stderr[-3000:]
