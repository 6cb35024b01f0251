"""Rows of pools and computers, which several processes write at once. No computer is needed."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.urls import reverse
from django.utils.timezone import now

from accounts.models import Organization
from clusters.models import Cluster, EngineVersion, Node
from portal import ssh
from portal.clouds import HostKey, NodesSpec, NoRoom, Tags
from portal.clouds.machines import certificates, cloud, leaving, standing
from portal.clouds.machines.findings import Finding
from portal.clouds.machines.models import Computer, Pool
from portal.errors import Conflict, Passing, Refused
from tests.running import until
from tests.web import words
from workspaces import actions, pools, poolwatch
from workspaces.models import CloudConfig, Workspace

TIDE = Tags("portal", "harbor", "lab", str(uuid4()))


def fill(pool, *names, **more):
    known = {"state": Computer.State.READY, "cores": 2, "vcpus": 2, "memory_gib": 3.8, "architecture": "x86_64"}
    return [
        pool.computers.create(address=f"{name}.example.org", hostname=name, **known | {"host_public": key()} | more)
        for name in names
    ]


def key():
    return ssh.new_key("")[1]


@pytest.fixture
def config(harbor):
    return CloudConfig.objects.create(organization=harbor, kind="machines", name="Own machines")


@pytest.fixture
def pool(config):
    made = Pool(account=config.uuid, name="desks", user="team", base="/shared/coxswain")
    certificates.new_authority(made)
    made.save()
    return made


def spec(nodes, tags=TIDE):
    return NodesSpec(tags, "tide", "2x4", (HostKey("", ""),) * nodes, ())


def write_looks(pool, rows, config, by):
    answers = {one.pk: standing.Look("another", 0.1) for one in rows}
    standing.write_looks(pool, answers, {})


def write_down(pool, rows, config, by):
    standing.write_down(pool, [Finding(one, facts={"boot_id": "another"}) for one in rows], {})


def write_keys(pool, rows, config, by):
    standing.write_keys({one.pk: key() for one in rows}, {})


def take(pool, rows, config, by):
    cloud._take(pool, spec(3))


def give_back(pool, rows, config, by):
    cloud._give_back(TIDE, None)


def confirm_keys(pool, rows, config, by):
    pools.confirm_keys(config, pool, [(one.uuid, one.fingerprint_shown) for one in rows], by=by)


def accept_new_key(pool, rows, config, by):
    pools.accept_new_key(config, rows[0], rows[0].fingerprint_shown, by=by)


def delete_config(pool, rows, config, by):
    actions.delete_cloud_config(config, by=by)


def delete_pool(pool, rows, config, by):
    pools.delete_pool(config, pool, by=by)


ORDERS = {
    "pool": [write_looks, write_down, confirm_keys, accept_new_key, delete_pool, delete_config],
    "first": [write_looks, write_down, write_keys, take, give_back],
}


class Apart(threading.Thread):
    """Does something with a connection of its own. `end` raises what that raised."""

    def __init__(self, function, *args):
        super().__init__()
        self.function, self.args, self.error = function, args, None
        self.start()

    def run(self):
        try:
            self.function(*self.args)
        except Exception as error:  # noqa: BLE001 (raised where it is waited for)
            self.error = error
        finally:
            connection.close()

    def end(self):
        self.join(20)
        assert not self.is_alive()
        if self.error:
            raise self.error


def waits_for_a_lock():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("rings")
@pytest.mark.parametrize(
    ("held", "write"),
    [pytest.param(held, write, id=f"{held}-{write.__name__}") for held, those in ORDERS.items() for write in those],
)
def test_whoever_waits_for_a_pool_or_a_computer_has_none_that_come_after_it(pool, config, alice, write, held):
    rows = fill(pool, "c", "b", "a")
    match write.__name__:
        case "give_back":
            Computer.objects.filter(pool=pool).update(**vars(TIDE))
            for rank, one in enumerate(reversed(rows)):
                Computer.objects.filter(pk=one.pk).update(rank=rank)
        case "confirm_keys" | "write_keys":
            for one in rows:
                Computer.objects.filter(pk=one.pk).update(host_public="", host_shown=one.host_public)
        case "accept_new_key":
            Computer.objects.filter(pk=rows[0].pk).update(host_shown=key())
        case "write_looks" | "write_down":
            Computer.objects.filter(pool=pool).update(boot_id="before")
    rows = list(pool.computers.order_by("pk"))
    with transaction.atomic():
        if held == "pool":
            Pool.objects.select_for_update(no_key=True).get(pk=pool.pk)
        else:
            Computer.objects.select_for_update(no_key=True).get(pk=rows[0].pk)
        writing = Apart(write, pool, rows, config, alice)
        until(lambda: waits_for_a_lock() or not writing.is_alive(), seconds=10, what="a lock that is waited for")
        CloudConfig.objects.select_for_update(no_key=True, nowait=True).get(pk=config.pk)
        later = rows if held == "pool" else rows[1:]
        list(Computer.objects.select_for_update(no_key=True, nowait=True).filter(pk__in=[one.pk for one in later]))
    writing.end()


@pytest.fixture
def late(pool):
    """A computer of TIDE, as a worker knows it, whose cluster has given it back since; and its row."""
    fill(pool, "a")
    (known,) = cloud._take(pool, spec(1))
    Computer.objects.filter(pk=known.pk).update(**Computer.FREE)
    return known, Computer.objects.filter(pk=known.pk)


OTHERS = [Tags("portal", "harbor", "lab", "flood"), TIDE]  # another cluster, and the same one once more


@pytest.mark.django_db
@pytest.mark.parametrize("tags", OTHERS, ids=["another cluster", "the same one"])
@pytest.mark.parametrize("why", [Refused("It was not let in.", code="not_let_in"), Passing("It does not answer.")])
def test_who_gives_a_computer_up_too_late_takes_it_from_nobody(pool, late, tags, why):
    known, row = late
    cloud._take(pool, spec(1, tags))
    before = row.values().get()
    with pytest.raises(Passing):
        cloud._give_up(known, why)
    assert row.values().get() == before


@pytest.mark.django_db
@pytest.mark.parametrize("tags", OTHERS, ids=["another cluster", "the same one"])
def test_who_has_prepared_a_computer_too_late_makes_it_nobodys_node(pool, late, tags):
    known, row = late
    cloud._take(pool, spec(1, tags))
    before = row.values().get()
    with pytest.raises(Passing):
        cloud._is_prepared(known, "boot", [["key", "certificate"]])
    assert row.values().get() == before


@pytest.mark.django_db
def test_who_has_swept_a_computer_too_late_does_not_free_what_is_given_back_once_more(pool, late):
    known, row = late
    cloud._take(pool, spec(1))
    cloud._give_back(TIDE, None)
    leaving._release(known)
    assert row.get().is_leaving


@pytest.mark.django_db
def test_nothing_is_cleared_that_the_same_cluster_has_again(pool, late, monkeypatch):
    """It was swept by somebody else, and taken once more, while the first one was still ending programs on it."""
    known, row = late
    known.is_leaving = True
    asked = []

    def run_each(calls, **_):
        asked.extend(calls)
        if len(asked) == 1:
            cloud._take(pool, spec(1))
        return [ssh.Answer(0, b"", b"")] * len(calls)

    monkeypatch.setattr(ssh, "run_each", run_each)
    leaving.clear([known])
    assert len(asked) == 1
    assert row.get().tags == TIDE


@pytest.mark.django_db
def test_a_computer_that_was_let_in_and_then_made_no_sense_stays_taken_until_it_was_swept(pool, rings):
    """The beginning of a node may be on it."""
    (one,) = fill(pool, "a")
    (known,) = cloud._take(pool, spec(1))
    cloud._give_up(known, Refused("a answers with more than 4,194,304 bytes."))
    one.refresh_from_db()
    assert one.is_leaving
    assert one.tags == TIDE


@pytest.mark.django_db
def test_a_computer_that_is_given_up_since_it_lets_nobody_in_is_checked_soon(pool):
    fill(pool, "a")
    (known,) = cloud._take(pool, spec(1))
    cloud._give_up(known, Refused("It shows another host key.", code="host_key"))
    assert list(standing.due()) == [pool]
    known.refresh_from_db()
    assert not known.is_taken
    assert known.state == Computer.State.REFUSED


@pytest.mark.django_db
def test_a_configuration_that_was_deleted_meanwhile_gets_no_pool(config, alice, rings):
    """It would be looked after for ever, and be on no page."""
    actions.delete_cloud_config(config, by=alice)
    with pytest.raises(Conflict):
        pools.create_pool(config, name="desks", user="team", base="/shared/coxswain", by=alice, uuid=uuid4())
    assert not Pool.objects.exists()


@pytest.mark.django_db
def test_a_computer_that_was_started_anew_is_checked_once_for_that(pool):
    """Also where the check does not get as far as asking it."""
    (one,) = fill(pool, "a", boot_id="before")
    standing.write_looks(pool, {one.pk: standing.Look("after", 0.1)}, {})
    (due,) = standing.due()
    standing.write_down(due, [Finding(one)], {})
    standing.write_looks(pool, {one.pk: standing.Look("after", 0.1)}, {})
    pool.refresh_from_db()
    assert pool.check_due - now() > timedelta(hours=1)
    assert [event.words for event in one.events.all()] == ["It was rebooted."]


@pytest.mark.django_db
def test_a_computer_that_answers_but_is_not_checked_in_time_does_not_have_its_pool_checked_all_the_time(pool):
    (one,) = fill(pool, "a", state=Computer.State.AWAY)
    standing.write_looks(pool, {one.pk: standing.Look("boot", 0.1)}, {})
    (due,) = standing.due()
    standing.write_down(due, [Finding(one, silence="It has not answered within 20 seconds.")], {})
    standing.write_looks(pool, {one.pk: standing.Look("boot", 0.1)}, {})
    assert not standing.due()
    pool.refresh_from_db()
    assert pool.check_due - now() < timedelta(minutes=2)


@pytest.mark.django_db
def test_one_look_without_an_answer_after_a_long_time_without_looks_is_not_away(pool):
    """Whoever looks may have been busy, with sweeping or with hundreds that are away, or not there at all."""
    (one,) = fill(pool, "a", seen=now() - timedelta(hours=1))
    standing.write_looks(pool, {}, {one.pk: "no answer"})
    one.refresh_from_db()
    assert one.state == Computer.State.READY
    standing.write_looks(pool, {}, {one.pk: "no answer"})
    one.refresh_from_db()
    assert one.state == Computer.State.AWAY


BOOT = "01234567-89ab-cdef-0123-456789abcdef"


def test_a_look_passes_over_what_the_accounts_shell_says():
    assert poolwatch._seen(f"Welcome to n1!\n{BOOT}\n0.42 0.30 0.25 1/300 4242\n") == (BOOT, 0.42, set())
    said = f"/tmp/coxswain-{BOOT}\n/tmp/coxswain-look-1\n/tmp/coxswain-../{BOOT}\n{BOOT}\n0.42 0.30 0.25 1/300 4242\n"
    assert poolwatch._seen(said) == (BOOT, 0.42, {BOOT})


# One computer in several pools


@pytest.fixture
def theirs(pool):
    """A pool of another organization, with two computers of the pool's three."""
    there = Organization.objects.create(name="Elsewhere")
    other = CloudConfig.objects.create(organization=there, kind="machines", name="Own machines")
    made = Pool(account=other.uuid, name="cellar", user="guest", base="/shared/guest")
    certificates.new_authority(made)
    made.save()
    for one in fill(pool, "a", "b", "c")[:2]:
        fill(made, one.hostname, host_public=one.host_public)
    return made


def free(pool):
    config = CloudConfig.objects.get(uuid=pool.account)
    (counted,) = pools.pools_of(config)
    (kind,) = config.account.instance_types(pool.name)
    assert counted.free == kind.free == pool.computers.free().count()
    return kind.free


@pytest.mark.django_db
def test_a_computer_that_two_pools_have_is_given_away_by_one_of_them(pool, theirs):
    guests = Tags("portal", "elsewhere", "den", str(uuid4()))
    assert [one.hostname for one in cloud._take(theirs, spec(1, guests))] == ["a"]
    assert (free(theirs), free(pool)) == (1, 2)
    with pytest.raises(NoRoom, match="has 2 free computers") as caught:
        cloud._take(pool, spec(3))
    assert caught.value.held_by == (guests.subject,)
    assert [one.hostname for one in cloud._take(pool, spec(2))] == ["b", "c"]
    assert free(theirs) == 0
    cloud._give_back(guests, None)
    assert free(pool) == 0, "it is not swept"
    theirs.computers.update(state="refused")
    assert free(pool) == 1, "it lets their portal in no more, and may never be swept"


@pytest.mark.django_db(transaction=True)
def test_of_two_pools_that_give_the_same_computers_at_once_one_has_them(pool, theirs):
    for turn in range(5):
        there = Tags("portal", "elsewhere", "den", str(uuid4()))
        both = [Apart(cloud._take, theirs, spec(2, there)), Apart(cloud._take, pool, spec(3))]
        refused = []
        for one in both:
            try:
                one.end()
            except NoRoom as error:
                refused.append(error)
        assert len(refused) == 1, turn
        Computer.objects.update(**Computer.FREE)


@pytest.mark.django_db
def test_computers_with_the_same_host_key_and_other_names_are_others(pool, theirs):
    theirs.computers.filter(hostname="a").update(hostname="copy")
    cloud._take(theirs, spec(2, Tags("portal", "elsewhere", "den", str(uuid4()))))
    assert free(pool) == 2


@pytest.mark.django_db
def test_pages_say_that_another_pool_has_a_computer_and_not_whose(client, pool, theirs, config, alice):
    there = Workspace.objects.create(
        organization=Organization.objects.get(name="Elsewhere"), name="grotto",
        cloud_config=CloudConfig.objects.get(uuid=theirs.account), region="cellar",
    )  # fmt: skip
    engine = EngineVersion.objects.get_or_create(kind="mpi", defaults={"version": "1", "packages": []})[0]
    cluster = Cluster.objects.create(
        workspace=there, name="secret", engine_version=engine, node_count=1, cores_per_node=2
    )
    cloud._take(theirs, spec(1, cluster.tags))
    client.force_login(alice)
    one = pool.computers.get(hostname="a")
    for address in (reverse("pool", args=[pool.uuid]), reverse("computer", args=[one.uuid])):
        page = words(client.get(address))
        assert "another pool" in page
        for word in ("secret", "Elsewhere", "cellar", "grotto", str(cluster.uuid)[:8]):
            assert word not in page.split("<main")[1].split("</main")[0], (word, address)
    assert "IN USE" in words(client.get(reverse("computer", args=[one.uuid])))
    assert 'id="computer-' in words(client.get(reverse("pool", args=[pool.uuid]) + "?state=taken"))


@pytest.mark.django_db
def test_what_the_cluster_of_another_portal_has_is_not_free(client, pool, config, alice):
    one, two = fill(pool, "a", "b")
    cloud._take(pool, spec(1))
    stranger, left = str(uuid4()), str(uuid4())
    standing.tell(two, "Given back.", left)
    marks = {one.pk: {TIDE.subject}, two.pk: {TIDE.subject, left}}
    standing.write_looks(pool, {pk: standing.Look("boot", 0.1, found) for pk, found in marks.items()}, {})
    assert free(pool) == 1
    for _ in range(2):
        standing.write_looks(pool, {two.pk: standing.Look("boot", 0.1, {stranger})}, {})
    assert free(pool) == 0
    told = [event.words for event in two.events.all()]
    assert told.count(f"Another portal has it: /tmp/coxswain-{stranger} is there.") == 1
    client.force_login(alice)
    assert "It is in use by another portal." in words(client.get(reverse("computer", args=[two.uuid])))
    assert "another portal" in words(client.get(reverse("pool", args=[pool.uuid])))
    with pytest.raises(NoRoom):
        cloud._take(pool, spec(2))
    standing.write_looks(pool, {two.pk: standing.Look("boot", 0.1)}, {})
    assert free(pool) == 1


@pytest.mark.parametrize("said", ["", "x", f"{BOOT}", f"{BOOT}\nnan 0 0", f"{BOOT}\n\n", "x\n0.1 0 0", f"{BOOT}\ninf"])
def test_a_look_believes_nothing_else(said):
    with pytest.raises((ValueError, Refused)):
        poolwatch._seen(said)


@pytest.mark.django_db
@pytest.mark.usefixtures("rings")
def test_a_computer_that_is_gone_for_good_can_be_removed_though_it_was_never_swept(client, pool, config, alice):
    (one,) = fill(pool, "a")
    cloud._take(pool, spec(1))
    with pytest.raises(Conflict):
        pools.remove_computer(config, one, by=alice)
    cloud._give_back(TIDE, None)
    with pytest.raises(Conflict):  # it answers, and is swept in a moment
        pools.remove_computer(config, one, by=alice)
    Computer.objects.update(state=Computer.State.AWAY)
    client.force_login(alice)
    address = reverse("remove-computer", args=[one.uuid])
    assert "It was not cleaned after its last cluster" in words(client.get(address))
    client.post(address, {"name": str(one)})
    assert not Computer.objects.exists()
    pools.delete_pool(config, pool, by=alice)
    assert not Pool.objects.exists()


@pytest.mark.django_db
def test_nodes_have_room_for_the_longest_names_and_folders_that_computers_may_have(pool):
    """PostgreSQL refuses what is longer than its column, in the middle of a plan."""
    pool.base = f"/{'b' * 249}"  # as long as the form lets it be
    pool.save()
    tags = Tags(*(str(uuid4()) for _ in range(4)))
    fill(pool, "a")
    (taken,) = cloud._take(pool, spec(1, tags))
    taken.address, taken.certificates = ".".join(["n" * 63] * 4)[:253], [["key", "certificate"]]
    node = cloud._node(taken)
    row = Node(
        rank=0, hostname=node.hostname, host_public=node.host_key, cloud_id=node.id, address=node.address, port=22,
        private_address=node.private_address, user=node.user, home=f"{node.home}99", shared=node.shared,
    )  # fmt: skip
    row.clean_fields(exclude=["cluster", "guests", "seen"])
