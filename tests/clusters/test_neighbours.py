"""How nodes reach each other by SSH, whatever a program has left in the home of one."""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace

import asyncssh
import pytest

from clusters import neighbours
from portal.clouds.promises import SSH_CONFIG

LEFT = """Nonsense yes
Match exec "touch taken"
Host *
  ProxyCommand touch taken
  PermitLocalCommand yes
  LocalCommand touch taken
  ForwardAgent yes
  Ciphers aes128-ctr
"""


@pytest.fixture
def home(tmp_path):
    nodes = [
        SimpleNamespace(
            hostname=f"tide-{rank}", private_address=f"10.0.0.{rank}", port=2200, user="node", home=str(tmp_path),
            pinned="ssh-ed25519 AAAA", key_certificate="",
        )
        for rank in range(3)
    ]  # fmt: skip
    for path, text in neighbours.files(SimpleNamespace(key="a key"), nodes[0], nodes).items():
        place = tmp_path / path
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.write_text(text)
        place.chmod(0o600)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    (tmp_path / ".ssh" / "config").write_text(LEFT)
    (tmp_path / ".ssh" / "config").chmod(0o600)
    return tmp_path


def asked(home, host):
    """What OpenSSH would do."""
    said = subprocess.run(
        ["ssh", "-F", home / SSH_CONFIG, "-G", host], cwd=home, capture_output=True, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in said.stdout.splitlines() if " " in line)


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no OpenSSH")
@pytest.mark.parametrize("host", ["tide-0", "tide-2", "10.0.0.1"])
def test_nothing_that_a_program_has_left_is_executed_on_the_way_to_a_node_of_the_cluster(home, host):
    found = asked(home, host)
    assert (found["hostname"][:7], found["port"], found["user"]) == ("10.0.0.", "2200", "node")
    assert "proxycommand" not in found
    assert (found["permitlocalcommand"], found["forwardagent"]) == ("no", "no")
    assert found["ciphers"] != "aes128-ctr"
    assert not (home / "taken").exists()


def test_nor_by_our_own_client(home):
    options = asyncssh.SSHClientConnectionOptions(config=[str(home / SSH_CONFIG)], host="tide-1")
    assert not options.proxy_command
    assert not (home / "taken").exists()
