"""What the portal makes of nodes on AWS, on real ones behind the emulated instances."""

from __future__ import annotations

import pytest

from portal import ssh
from portal.clouds import HostKey
from portal.clouds.aws import leftovers, nodes, roles
from portal.clouds.bootstrap import OWN_KEY, READY
from portal.clouds.promises import PROMISES
from portal.clouds.types import NodesSpec, WorkspaceSpec
from portal.errors import PortalError, Refused
from tests.aws.box import CUSTOMER
from tests.aws.test_network import deleted, made, region
from tests.aws.test_nodes import IMAGE, ask, with_role
from tests.clouds import hands

pytestmark = pytest.mark.timeout(240)


def test_a_node_is_known_by_a_key_that_nobody_could_read_and_ready_when_it_says_so(box, monkeypatch):
    at = region(box.emulator, CUSTOMER, monkeypatch, image=IMAGE)
    workspace = hands.tags()
    made(at, WorkspaceSpec(workspace, choices=(("range", box.net),)))
    where = with_role(at, workspace)
    keys = tuple(HostKey(*ssh.new_key(f"demo-{rank}", "ecdsa-sha2-nistp256")) for rank in range(2))
    spec = NodesSpec(where, "demo", "m5.large", keys, (hands.public("portal"), hands.public("cluster")))
    ask(lambda token: nodes.ensure(at, spec, token))
    seen = hands.up(_Cloud(at), where, 2)

    def host(node, key):
        return ssh.Host(node.hostname, node.address, node.port, node.user, hands.private("portal"), key)

    def answers(node, key, command):
        try:
            answer = ssh.run(host(node, key), command, seconds=10)
        except Refused:
            raise
        except PortalError:
            return None
        return answer if answer.status == 0 else None

    owns = []
    for node, given in zip(seen, keys, strict=True):
        said = hands.until(lambda n=node, g=given: answers(n, g.public, f"test -e {READY} && cat {OWN_KEY}"), 60)
        own = ssh.public_key(said.text)
        owns.append(own)
        assert own.startswith("ssh-ed25519 ")
        assert answers(node, own, "hostname").text == node.hostname
        assert answers(node, given.public, "hostname").text == node.hostname, "until it is written down, either"
        assert answers(node, own, f"! cat {OWN_KEY.removesuffix('.pub')}"), "it is its root's"
        assert answers(node, own, 'test -n "$HYDRA_IFACE"')
        broken = [
            one.what
            for one in PROMISES
            if not answers(node, own, f"COXSWAIN_RUN=a-run; export COXSWAIN_RUN; {one.test}")
        ]
        assert broken == []
    with pytest.raises(Refused, match="another host key"):
        answers(seen[0], owns[1], "true")
    ask(lambda _: nodes.delete(at, where, None))
    roles.delete(at.session, where)
    deleted(at, workspace)
    assert leftovers.of(at, where) == leftovers.of(at, workspace) == []


class _Cloud:
    def __init__(self, at):
        self.at = at

    def nodes(self, where):
        return nodes.of(self.at, where)
