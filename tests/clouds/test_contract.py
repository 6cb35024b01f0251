"""What every cloud promises."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections import defaultdict
from datetime import UTC, datetime
from ipaddress import IPv4Network

import pytest

from portal.clouds import Can, NodeState, NoRoom, Passing, Refused, RoleSpec
from portal.clouds.bootstrap import READY
from portal.clouds.local import LocalAccount
from portal.clouds.machines.models import Computer
from portal.clouds.promises import PROMISES
from portal.errors import Conflict
from tests.aws.box import REGION

from . import bad, hands, pools


class Memory:
    def __init__(self, _request):
        self.cloud = bad.MemoryCloud()
        self.account = bad.AccountOf(self.cloud)

    def kill(self, where, rank):
        self.cloud.kill(where, rank)

    def identity(self, where, rank):
        return self.cloud.nodes(where)[rank].id


class Whole(Memory):
    def __init__(self, _request):
        self.cloud = bad.WholeCloud()
        self.account = bad.AccountOf(self.cloud)


class Local:
    rung = "namespaces"

    def __init__(self, request):
        self.cloud = request.getfixturevalue("local")(self.rung)
        self.account = LocalAccount(self.cloud)

    def _state(self, where, rank):
        return self.cloud._workspace(where).cluster(where.subject).node(rank).state()

    def kill(self, where, rank):
        self._state(where, rank).first.send(signal.SIGKILL)
        hands.until(lambda: not self.cloud.nodes(where)[rank].running)

    def identity(self, where, rank):
        return self._state(where, rank).first


class Landlock(Local):
    rung = "landlock"


class Plain(Local):
    rung = "plain"


class Machines:
    def __init__(self, request):
        self.desks = request.getfixturevalue("desks")
        request.getfixturevalue("monkeypatch").setattr(hands, "KIND", "2x4")
        self.account = pools.account(self.desks)
        (region,) = self.account.regions()
        self.cloud = self.account.cloud(region.name)

    def kill(self, where, rank):
        """Its computer does not answer any more, and who looks after it has seen that."""
        Computer.objects.filter(uuid=self.identity(where, rank)).update(state=Computer.State.AWAY)

    def identity(self, where, rank):
        return next(node.id for node in self.cloud.nodes(where) if node.rank == rank)


class Aws:
    """An account of an emulated AWS, with a real node behind each instance."""

    def __init__(self, request):
        self.box = request.getfixturevalue("box")
        self.account = request.getfixturevalue("aws")
        setting = request.getfixturevalue("monkeypatch").setattr
        setting(hands, "KIND", "m5.large")
        setting(hands, "HOST_KEY", "ecdsa-sha2-nistp256")
        parts = IPv4Network(self.box.net).subnets(new_prefix=18)
        setting(hands, "CHOICES", defaultdict(lambda: (("range", str(next(parts))),)))
        self.cloud = AsPlansAsk(self.account.cloud(REGION), self.account)

    def kill(self, where, rank):
        name = self.identity(where, rank)
        hands.until(lambda: self.box.console(name))
        self.box.client("ec2").terminate_instances(InstanceIds=[name])

    def identity(self, where, rank):
        return next(node.id for node in self.cloud.nodes(where) if node.rank == rank)


class AsPlansAsk(bad._Around):
    """A cluster's own role is there before its nodes, and goes after them."""

    def __init__(self, inner, account):
        super().__init__(inner)
        self.ensure_role, self.delete_role = account.ensure_role, account.delete_role
        self.check_role, self.attach_role, self.detach_role = (
            account.check_role, account.attach_role, account.detach_role,
        )  # fmt: skip

    def ensure_nodes(self, spec, *, token=""):
        if not spec.role:
            self.ensure_role(RoleSpec(spec.tags))
        return self.inner.ensure_nodes(spec, token=token)

    def delete_nodes(self, tags, ranks=None, *, token=""):
        pending = self.inner.delete_nodes(tags, ranks, token=token)
        if pending is None and ranks is None:
            self.delete_role(tags)
        return pending


KINDS = {
    "memory": Memory,
    "whole": Whole,
    "namespaces": Local,
    "landlock": Landlock,
    "plain": Plain,
    "machines": Machines,
    "aws": Aws,
}
MARKS = {"machines": pytest.mark.django_db, "aws": pytest.mark.slow}  # a minute and more


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in KINDS])
def here(request):
    return KINDS[request.param](request)


@pytest.fixture
def cloud(here):
    return here.cloud


@pytest.fixture
def pausing(cloud):
    if Can.PAUSE not in cloud.can:
        pytest.skip("it stops no nodes")
    return cloud


@pytest.fixture
def store(here):
    if Can.STORE not in here.account.can:
        pytest.skip("it keeps no objects")
    return here.account.store


@pytest.fixture
def making(cloud):
    if Can.MAKE not in cloud.can:
        pytest.skip("it makes no nodes")
    return cloud


def ranks(nodes):
    return [node.rank for node in nodes]


def test_an_account_says_who_and_what_it_is(here):
    account = here.account
    assert account.check().name
    (region, *_) = account.regions()
    assert account.cloud(region.name) is account.cloud(region.name)
    assert account.cloud(region.name).can == account.can
    offers = account.instance_types(region.name)
    assert offers
    assert offers == sorted(offers, key=lambda offer: offer.cores)
    assert all(0 < offer.cores <= offer.vcpus and offer.architecture for offer in offers)


def test_an_account_says_of_each_permission_what_to_do_where_it_is_missing(here):
    permissions = here.account.permissions()
    assert permissions
    assert all(one.name and (one.granted or one.statement) for one in permissions)


def _requests(here, where):
    """Requests that need it, for each thing that not every cloud can do and that is asked for."""
    workspace = hands.site(hands.tags(where.workspace))
    cloud, spec = here.cloud, hands.spec
    return {
        Can.NETWORK: [lambda: cloud.ensure_network(workspace)],
        Can.FILESYSTEM: [lambda: cloud.ensure_filesystem(workspace)],
        Can.STORE: [lambda: here.account.store],
        Can.PAUSE: [lambda: cloud.stop_nodes(where)],
        Can.SCALE: [lambda: cloud.delete_nodes(where, [1])],
        Can.ZONE: [cloud.zones, lambda: cloud.ensure_nodes(spec(where, 1, zone="a"))],
        Can.SPOT: [lambda: cloud.ensure_nodes(spec(where, 1, spot=True))],
        Can.ROLE: [
            lambda: cloud.ensure_nodes(spec(where, 1, role="reader")),
            lambda: here.account.check_role("reader"),
            lambda: here.account.attach_role("reader"),
            lambda: here.account.detach_role("reader"),
            lambda: here.account.ensure_role(RoleSpec(where)),
            lambda: here.account.delete_role(hands.tags()),
        ],
        Can.BUCKET: [lambda: here.account.reading("flights")],
    }


def test_what_this_kind_of_cloud_cannot_do_is_refused_by_its_code_and_the_rest_is_not(here, cloud):
    _, where = hands.deploy(cloud)
    for can, requests in _requests(here, where).items():
        for request in requests:
            code = ""
            try:
                request()
            except Refused as error:
                code = error.code
            assert (code == "not_here") == (can not in cloud.can), can
            if code == "not_here":
                assert cloud.nodes(where) == []
            hands.ask(cloud.delete_nodes, where)


@pytest.fixture
def with_roles(here):
    if Can.ROLE not in here.account.can:
        pytest.skip("it has no roles")
    return here.account


def test_a_role_is_made_once_and_goes_with_its_cluster(here, cloud, with_roles):
    _, where = hands.deploy(cloud)
    for _ in range(2):
        hands.ask(with_roles.ensure_role, RoleSpec(where, (("team", "tides"),)))
    assert [resource.kind for resource in cloud.leftovers(where)] == ["role"]
    assert where in cloud.owners(where.portal)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 1))
    hands.ask(cloud.delete_nodes, where)
    for _ in range(2):
        hands.ask(with_roles.delete_role, where)
        assert cloud.leftovers(where) == []


def test_a_role_of_its_owner_is_made_fit_and_left_as_it_was_and_what_is_none_is_refused(with_roles):
    for _ in range(2):
        with_roles.attach_role("reader")
        assert with_roles.check_role("reader").name
    for _ in range(2):
        with_roles.detach_role("reader")
    with_roles.detach_role("nobody")
    for request in (with_roles.check_role, with_roles.attach_role):
        with pytest.raises(Refused) as caught:
            request("nobody")
        assert caught.value.code == "not_found"


def test_a_slow_or_forgetful_cloud_makes_a_role_too(here, cloud, with_roles):
    for spoilt in (bad.Slow(cloud), bad.Forgetful(cloud)):
        account, where = bad.AccountOf(spoilt), hands.tags()
        for request, argument in ((account.ensure_role, RoleSpec(where)), (account.delete_role, where)):
            with contextlib.suppress(Passing):
                request(argument)
            hands.ask(request, argument)
        assert cloud.leftovers(where) == []


def test_an_offer_says_what_is_not_possible_and_what_it_would_count_against(here, cloud):
    _, where = hands.deploy(cloud)
    (region, *_) = here.account.regions()
    (smallest, *_) = here.account.instance_types(region.name)
    offer = cloud.offer(smallest.name, 1)
    assert not offer.impossible
    assert (offer.hourly_price is not None or bool(offer.warnings)) == (Can.PRICES in cloud.can)
    assert all(quota.asked for quota in offer.quotas)
    assert cloud.offer("huge.9000", 1).impossible.endswith(".")
    before = offer.quotas[0].left
    hands.ask(cloud.ensure_nodes, hands.spec(where, 1, kind=smallest.name))
    assert cloud.offer(smallest.name, 1).quotas[0].left == before - offer.quotas[0].asked
    hands.ask(cloud.delete_nodes, where)
    assert cloud.offer(smallest.name, 1).quotas[0].left == before
    assert not cloud.offer(smallest.name, before + 1).quotas[0].is_enough


def test_a_store_gives_back_what_it_was_given_and_names_it(store):
    store.put("deployments/a/b.json", b"one")
    store.put("deployments/a/b.json", b"two, and longer")
    store.put("deployments/c.json", b"")
    assert store.get("deployments/a/b.json") == b"two, and longer"
    assert store.get("deployments/a/b.json", 5, 3) == b"and"
    assert store.get("deployments/a/b.json", 9, 100) == b"longer"
    assert store.get("deployments/c.json") == b""
    assert store.get("deployments/none") is None
    assert store.list("deployments/") == ["deployments/a/b.json", "deployments/c.json"]
    assert store.list("other") == []
    for _ in range(2):
        store.delete("deployments/a/b.json")
    assert store.list() == ["deployments/c.json"]


def test_a_store_takes_an_object_in_pieces_whole_or_not_at_all(store):
    store.put("outputs/a", (b"%07d\n" % n for n in range(100_000)))
    assert store.size("outputs/a") == 800_000
    assert store.get("outputs/a", 799_992) == b"0099999\n"

    def breaks_off():
        yield b"x" * 1_000_000
        raise KeyError("of whoever makes the pieces")

    for name in ("outputs/a", "outputs/b"):
        with pytest.raises(KeyError):
            store.put(name, breaks_off())
    assert (store.size("outputs/a"), store.size("outputs/b"), store.get("outputs/b")) == (800_000, None, None)
    assert store.list() == ["outputs/a"]


def test_whose_lock_ran_out_has_the_same_again_if_nobody_had_it_meanwhile(store):
    mine = store.lock("a", owner="one", seconds=0)
    hands.until(lambda: mine.until < datetime.now(UTC))
    again = store.lock("a", owner="one", seconds=0)
    assert again.fence == mine.fence
    hands.until(lambda: store.lock("a", owner="two", seconds=0))
    assert hands.until(lambda: store.lock("a", owner="one", seconds=60)).fence > mine.fence


def test_the_lock_of_an_object_is_gone_with_it(here, store):
    mine = store.lock("deployments/a", owner="one", seconds=60)
    store.put("deployments/a", b"mine", lock=mine)
    store.delete("deployments/a", lock=mine)
    if isinstance(here, Local):
        assert list((store.root / ".locks").glob("*.json")) == []
    assert store.lock("deployments/a", owner="two", seconds=60), "it is anybody's at once"
    with pytest.raises(Conflict):
        store.put("deployments/a", b"late", lock=mine)


@pytest.mark.parametrize("name", ["", "../up", "/root", "a//b", "a/../b", "a b", ".locks/turn", "x" * 501])
def test_a_store_has_no_name_that_leads_elsewhere(store, name):
    for request in (store.get, lambda name: store.put(name, b"")):
        with pytest.raises(Refused):
            request(name)


def test_of_two_owners_one_has_the_lock_and_who_lost_it_writes_nothing(store):
    mine = store.lock("deployments/a", owner="one", seconds=60)
    assert store.lock("deployments/a", owner="two", seconds=60) is None
    assert store.lock("deployments/b", owner="two", seconds=60)
    assert (store.holder("deployments/a"), store.holder("deployments/c")) == (mine, None)
    again = store.lock("deployments/a", owner="one", seconds=0)
    assert again.fence == mine.fence
    store.put("a", b"mine", lock=again)
    theirs = hands.until(lambda: store.lock("deployments/a", owner="two", seconds=60))
    assert theirs.fence > mine.fence
    for late in (lambda: store.put("a", b"late", lock=mine), lambda: store.delete("a", lock=again)):
        with pytest.raises(Conflict):
            late()
    store.release(mine)
    store.put("a", b"theirs", lock=theirs)
    assert store.get("a") == b"theirs"
    store.release(theirs)
    third = store.lock("deployments/a", owner="one", seconds=60)
    assert third.fence > theirs.fence
    assert store.lock("deployments/a", owner="two", seconds=60, over="three") is None
    last = store.lock("deployments/a", owner="two", seconds=60, over="one")
    assert last.fence > third.fence
    with pytest.raises(Conflict):
        store.put("a", b"late", lock=third)
    store.release(last)
    assert store.holder("deployments/a") is None


def test_a_choice_that_the_cloud_does_not_know_is_refused(cloud):
    workspace = hands.tags()
    with pytest.raises(Refused):
        hands.furnish(cloud, workspace, choices=(("a thing", "that no cloud has"),))
    assert cloud.leftovers(workspace) == []


def test_making_twice_makes_once(here, cloud):
    workspace, where = hands.deploy(cloud)
    hands.furnish(cloud, workspace)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    before = hands.up(cloud, where, 2)
    identities = [here.identity(where, rank) for rank in range(2)]
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    assert cloud.nodes(where) == before
    assert [here.identity(where, rank) for rank in range(2)] == identities
    assert ranks(before) == [0, 1]
    names = [node.hostname for node in before]
    assert names == ["demo-0", "demo-1"] if Can.MAKE in cloud.can else len(set(names)) == 2
    assert len({node.address for node in before}) == 2


def test_after_a_crash_half_way_exactly_the_missing_nodes_are_made(here, cloud):
    _, where = hands.deploy(cloud)
    with pytest.raises(bad.Died):
        bad.Dying(cloud).ensure_nodes(hands.spec(where, 4))
    assert ranks(hands.up(cloud, where, 2)) == [0, 1]
    first = [here.identity(where, rank) for rank in range(2)]
    hands.ask(cloud.ensure_nodes, hands.spec(where, 4))
    assert ranks(hands.up(cloud, where, 4)) == [0, 1, 2, 3]
    assert [here.identity(where, rank) for rank in range(2)] == first


def test_a_killed_node_is_made_again_and_the_others_are_left_alone(here, cloud):
    _, where = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 3))
    hands.up(cloud, where, 3)
    before = [here.identity(where, rank) for rank in range(3)]
    here.kill(where, 1)
    assert [node.running for node in cloud.nodes(where)] == [True, False, True]
    hands.ask(cloud.ensure_nodes, hands.spec(where, 3))
    hands.up(cloud, where, 3)
    after = [here.identity(where, rank) for rank in range(3)]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True]


def test_stopped_nodes_keep_their_ranks_and_names_and_start_again(pausing):
    cloud = pausing
    _, where = hands.deploy(cloud)
    spec = hands.spec(where, 3)
    hands.ask(cloud.ensure_nodes, spec)
    before = hands.up(cloud, where, 3)
    for _ in range(2):
        hands.ask(cloud.stop_nodes, where)
        stopped = cloud.nodes(where)
        assert [node.state for node in stopped] == [NodeState.STOPPED] * 3
        assert not any(node.address or node.reason or node.is_coming for node in stopped)
    assert cloud.leftovers(where)
    for _ in range(2):
        hands.ask(cloud.ensure_nodes, spec)
    after = hands.up(cloud, where, 3)
    for what in ("id", "rank", "hostname", "home", "user"):
        assert [getattr(node, what) for node in after] == [getattr(node, what) for node in before]


def test_stopping_what_never_was_is_quiet(pausing):
    hands.ask(pausing.stop_nodes, hands.tags())


def test_a_cluster_that_is_stopped_while_it_starts_stops(pausing):
    cloud = pausing
    _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, 2))
    hands.ask(cloud.stop_nodes, where)
    assert [node.state for node in cloud.nodes(where)] == [NodeState.STOPPED] * 2


def test_nodes_are_removed_by_rank_and_the_others_are_left_alone(here, cloud):
    _, where = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 4))
    hands.up(cloud, where, 4)
    kept = [here.identity(where, rank) for rank in (0, 1)]
    for _ in range(2):
        hands.ask(cloud.delete_nodes, where, [2, 3])
        assert ranks(cloud.nodes(where)) == [0, 1]
    assert [here.identity(where, rank) for rank in (0, 1)] == kept
    hands.ask(cloud.ensure_nodes, hands.spec(where, 3))
    assert ranks(hands.up(cloud, where, 3)) == [0, 1, 2]
    assert [here.identity(where, rank) for rank in (0, 1)] == kept
    hands.ask(cloud.delete_nodes, where, [0])
    assert ranks(cloud.nodes(where)) == [1, 2]
    hands.ask(cloud.delete_nodes, where)
    assert cloud.leftovers(where) == []


def test_a_node_that_ended_by_itself_says_so_and_what_it_said_last(here, making):
    cloud = making
    _, where = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    hands.up(cloud, where, 2)
    here.kill(where, 1)
    whole, dead = cloud.nodes(where)
    assert (whole.state, whole.reason) == (NodeState.RUNNING, "")
    assert not dead.is_coming
    assert dead.reason.endswith(".")
    assert cloud.console(where, 1)
    assert cloud.console(where, 7) == cloud.console(hands.tags(), 0) == ""


def test_nothing_is_left_after_deleting_and_deleting_twice_is_quiet(cloud):
    workspace, where = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    hands.up(cloud, where, 2)
    assert cloud.leftovers(where)
    assert cloud.leftovers(workspace)
    for _ in range(2):
        hands.ask(cloud.delete_nodes, where)
        assert cloud.nodes(where) == []
        assert cloud.leftovers(where) == []
    for _ in range(2):
        hands.clear(cloud, workspace)
        assert cloud.leftovers(workspace) == []


def test_deleting_what_never_was_is_quiet(cloud):
    workspace, where = hands.tags(), hands.tags()
    hands.ask(cloud.delete_nodes, where)
    hands.clear(cloud, workspace)
    assert cloud.nodes(where) == cloud.leftovers(where) == []


def test_deleting_a_cluster_that_still_starts_leaves_nothing(cloud):
    _, where = hands.deploy(cloud)
    cloud.ensure_nodes(hands.spec(where, 3))
    hands.ask(cloud.delete_nodes, where)
    assert cloud.nodes(where) == cloud.leftovers(where) == []


def test_a_deleted_cluster_can_be_made_again(cloud):
    _, where = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 1))
    hands.ask(cloud.delete_nodes, where)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    assert ranks(hands.up(cloud, where, 2)) == [0, 1]


def test_other_clusters_and_other_portals_are_never_listed_or_touched(here, cloud):
    workspace, where = hands.deploy(cloud)
    other = hands.tags(workspace.workspace)
    other = hands.tags(workspace.workspace, "other-" + other.subject)
    stranger = hands.tags(where.workspace, where.subject, portal="portal-2")
    hands.ask(cloud.ensure_nodes, hands.spec(where, 1))
    hands.ask(cloud.ensure_nodes, hands.spec(other, 1, name="other"))
    hands.up(cloud, where, 1)
    kept = hands.up(cloud, other, 1)
    identity = here.identity(where, 0)
    assert cloud.nodes(stranger) == cloud.leftovers(stranger) == []
    hands.ask(cloud.delete_nodes, stranger)
    assert here.identity(where, 0) == identity
    assert cloud.nodes(where)[0].running
    hands.ask(cloud.delete_nodes, where)
    assert cloud.leftovers(where) == []
    assert cloud.nodes(other) == kept


@pytest.fixture
def signed_in(here, cloud):
    """Two nodes on which somebody can sign in."""
    if isinstance(here, Memory):
        pytest.skip("nobody can sign in")
    _, where = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    nodes = hands.up(cloud, where, 2)
    if isinstance(here, Aws):
        for node in nodes:  # it runs for AWS before it has booted
            hands.until(lambda node=node: hands.answers(node, f"test -e {READY}"), seconds=60)
    return nodes


def test_a_node_is_all_that_was_promised(signed_in):
    for node in signed_in:
        broken = [
            (promise.what, done.stderr)
            for promise in PROMISES
            if (done := hands.run(node, promise.test, env={"COXSWAIN_RUN": "a-run"})).exit_status
        ]
        assert broken == []
        assert hands.said(node, "hostname") == node.hostname
        assert hands.said(node, "cd; pwd") == node.home


def test_no_file_of_somebody_is_in_the_way_from_node_to_node(signed_in):
    hands.introduce(signed_in, 1)
    here, there = signed_in
    wrong = r'Match exec "touch executed"\n  User nobody\nNonsense yes\n'
    hands.said(here, f"cd && mkdir -p -m 700 .ssh && printf '{wrong}' > .ssh/config")
    assert f"hostname {there.private_address}" in hands.said(here, f"ssh -G {there.hostname}").splitlines()
    assert "executed" not in hands.said(here, "cd; ls").split()
    assert "Nonsense" in hands.run(here, "ssh elsewhere.test true").stderr.title(), "but it is for other hosts"


def test_nodes_share_a_filesystem_and_reach_each_other(signed_in):
    for node in signed_in:
        hands.said(node, f"echo {node.rank} > '{node.shared}/token-{node.rank}'")
    reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"
    for node in signed_in:
        assert hands.said(node, f"cat '{node.shared}'/token-*").split() == ["0", "1"]
        for other in signed_in:
            hands.said(node, shlex.join(["python3", "-c", reach, other.private_address, str(other.port)]))


def test_an_unknown_type_is_refused_with_a_sentence(cloud):
    _, where = hands.deploy(cloud)
    with pytest.raises(Refused, match=r"type 'huge\.9000'"):
        hands.ask(cloud.ensure_nodes, hands.spec(where, 1, kind="huge.9000"))
    assert cloud.nodes(where) == []
    hands.ask(cloud.delete_nodes, where)
    assert cloud.leftovers(where) == []


def test_no_message_or_listing_has_a_private_key(cloud):
    _, where = hands.deploy(cloud)
    spec = hands.spec(where, 1)
    said = [repr(spec)]
    for kind in ("huge.9000", hands.KIND):
        try:
            hands.ask(cloud.ensure_nodes, hands.spec(where, 1, kind=kind))
        except Refused as exc:
            said += [exc.message, exc.evidence, exc.advice, repr(exc)]
    said += [repr(cloud.nodes(where)), repr(cloud.leftovers(where))]
    secret = spec.host_keys[0].private.splitlines()[2]
    assert not any("PRIVATE KEY" in text or secret in text for text in said)


def test_a_slow_cloud_gets_there(cloud):
    slow = bad.Slow(cloud, looks=3)
    workspace, where = hands.deploy(slow)
    hands.ask(slow.ensure_nodes, hands.spec(where, 2))
    assert not any(node.running for node in slow.nodes(where))
    hands.up(slow, where, 2)
    if Can.PAUSE in slow.can:
        hands.ask(slow.stop_nodes, where)
    assert slow.delete_nodes(where).look_in > 0
    assert [resource.kind for resource in slow.leftovers(where) if resource.is_going] == ["nodes"]
    hands.ask(slow.delete_nodes, where)
    hands.clear(slow, workspace)
    assert slow.leftovers(where) == slow.leftovers(workspace) == []


def test_lost_replies_make_nothing_twice(cloud):
    forgetful = bad.Forgetful(cloud)
    workspace, where = hands.tags(), None
    where = hands.tags(workspace.workspace, "cluster-" + workspace.subject)
    requests = [
        (Can.NETWORK, forgetful.ensure_network, hands.site(workspace)),
        (Can.FILESYSTEM, forgetful.ensure_filesystem, hands.site(workspace)),
        (None, forgetful.ensure_nodes, hands.spec(where, 2)),
        (Can.PAUSE, forgetful.stop_nodes, where),
        (None, forgetful.delete_nodes, where),
        (Can.FILESYSTEM, forgetful.delete_filesystem, workspace),
        (Can.NETWORK, forgetful.delete_network, workspace),
    ]
    for can, request, argument in requests:
        if can and can not in cloud.can:
            continue
        with pytest.raises(Passing):
            request(argument)
        hands.ask(request, argument)
        if request == forgetful.ensure_nodes:
            assert ranks(hands.up(cloud, where, 2)) == [0, 1]
    assert cloud.leftovers(where) == cloud.leftovers(workspace) == []


def test_everything_of_a_portal_is_found_without_knowing_of_it_and_nothing_of_another(cloud):
    """Local clouds of two portals may share a folder, as two portals may share a cloud account."""
    workspace, where = hands.deploy(cloud)
    hands.ask(cloud.ensure_nodes, hands.spec(where, 2))
    other = hands.tags(portal="portal-2")
    hands.furnish(cloud, other)
    seen = cloud.inventory("portal-1")
    # Those of other tests that ended by themselves may be listed for a while.
    live = {tags: ranks(nodes) for tags, nodes in seen.items() if any(node.state != NodeState.GONE for node in nodes)}
    assert live == {where: [0, 1]}
    assert seen[where][0].hostname == cloud.nodes(where)[0].hostname
    assert cloud.owners("portal-1") == {workspace, where}
    assert (cloud.inventory("portal-2"), cloud.owners("portal-2")) == ({}, {other})
    hands.ask(cloud.delete_nodes, where)
    hands.until(lambda: where not in cloud.inventory("portal-1"))
    hands.clear(cloud, other)


def test_a_full_cloud_leaves_what_it_made_to_be_found_and_deleted(cloud):
    full = bad.Full(cloud, capacity=1)
    _, where = hands.deploy(full)
    with pytest.raises(NoRoom) as caught:
        hands.ask(full.ensure_nodes, hands.spec(where, 3))
    assert caught.value.alternatives
    assert str(caught.value.alternatives[0]) in caught.value.advice
    assert ranks(full.nodes(where)) == [0]
    assert full.leftovers(where)
    hands.ask(full.delete_nodes, where)
    assert full.leftovers(where) == []


def test_a_refusing_cloud_has_nothing(cloud):
    refusing = bad.Refusing(cloud)
    workspace = hands.tags()
    with pytest.raises(Refused):
        hands.furnish(refusing, workspace)
    assert refusing.leftovers(workspace) == []


@pytest.mark.parametrize("call", range(1, 7))
def test_dying_in_any_request_is_repaired_by_asking_again(cloud, call):
    if call > 3 and not isinstance(cloud, bad.MemoryCloud):
        pytest.skip("deleting half-way has tests of its own")
    dying = bad.Dying(cloud, call)
    workspace = hands.tags()
    where = hands.tags(workspace.workspace, "cluster-" + workspace.subject)

    def build_and_remove():
        hands.furnish(dying, workspace)
        hands.ask(dying.ensure_nodes, hands.spec(where, 2))
        assert ranks(hands.up(cloud, where, 2)) == [0, 1]
        hands.ask(dying.delete_nodes, where)
        hands.clear(dying, workspace)

    with pytest.raises(bad.Died):
        build_and_remove()
    build_and_remove()
    assert cloud.leftovers(where) == cloud.leftovers(workspace) == []
