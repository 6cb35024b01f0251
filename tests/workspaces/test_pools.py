"""Own machines for people: pools, their computers and host keys, and what becomes of a computer."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.urls import reverse

from accounts.models import AuditEvent, Membership
from clusters.models import Cluster, EngineVersion
from portal import ssh
from portal.clouds.machines import standing
from portal.clouds.machines.findings import Finding
from portal.clouds.machines.models import Computer, Pool
from portal.errors import Conflict, PortalError
from portal.ssh import fingerprint
from tests.web import words
from workspaces import pools, poolwatch
from workspaces.actions import create_workspace, delete_cloud_config
from workspaces.models import CloudConfig, Workspace
from workspaces.poolforms import AddComputersForm, base_folder, place_of

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def key():
    return ssh.new_key("")[1].strip()


@pytest.fixture
def config(harbor, alice):
    return CloudConfig.objects.create(organization=harbor, name="Own machines", kind="machines", created_by=alice)


@pytest.fixture
def pool(config, alice, rings):
    return pools.create_pool(config, name="desks", user="team", base="/shared/coxswain", by=alice, uuid=uuid4())


def make(pool, name, **fields):
    """A computer that is READY, but for these fields."""
    usual = {
        "hostname": name, "host_public": key(), "state": "ready", "cores": 4, "vcpus": 8, "memory_gib": 15.5,
        "architecture": "x86_64", "boot_id": "one", "load": 0.25,
    }  # fmt: skip
    return pool.computers.create(address=f"{name}.example.org", **(usual | fields))


def taken(cluster, **fields):
    tags = cluster.workspace.tags(cluster.uuid)
    return {**vars(tags), "rank": 0, "taken": NOW, **fields}


def history(computer):
    return [event.words for event in reversed(computer.events.all())]


def verbs():
    return list(AuditEvent.objects.order_by("number").values_list("verb", "kind", "subject_name"))


# What may be written


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("N1.example.org", ("n1.example.org", 22)),
        (" 10.0.0.12:2222 ", ("10.0.0.12", 2222)),
        ("[fd00::13]", ("fd00::13", 22)),
        ("[FD00:0::13]:2222", ("fd00::13", 2222)),
        ("desk-7", ("desk-7", 22)),
    ],
)
def test_a_line_names_a_computer_in_one_way(line, place):
    assert place_of(line) == place


@pytest.mark.parametrize(
    "line",
    [
        "", "a b", "n1:", "n1:0", "n1:65536", "n1:ssh", "fd00::13", "[fd00::13", "[fd00::13]22", "-oProxyCommand=x",
        "n1;reboot", "999.1.1.1", "127.0.0.1", "[::1]", "localhost", "0.0.0.0", "user@n1", "n1/x", "n\uff11", "a" * 64,
    ],
)  # fmt: skip
def test_a_line_that_names_none_is_refused_in_words(line):
    with pytest.raises(ValidationError):
        place_of(line)


def test_a_hundred_computers_are_added_at_once_and_no_more():
    lines = [f"n{n}.example.org" for n in range(101)]
    assert "These are 101 lines" in str(AddComputersForm({"places": "\n".join(lines)}).errors)
    form = AddComputersForm({"places": "\n\n".join(lines[:100])})
    assert form.is_valid()
    assert len(form.cleaned_data["places"]) == 100
    twice = AddComputersForm({"places": "n1\nN1:22\n"})
    assert twice.is_valid()
    assert twice.cleaned_data["places"] == [("n1", 22)]


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", "/home", "/home/dora", "/tmp", "/tmp/x", "/etc/coxswain", "/root/x", "/usr/local/x", "/srv", "/mnt/",
        "/var/spool/x", "shared", "/shared/../etc", "/shared/a b", "/shared/$HOME", "/shared/'x'", "/proc/self",
        "/var/lib",
    ],
)  # fmt: skip
def test_folders_of_the_system_and_of_everybody_are_no_base(path):
    with pytest.raises(ValidationError):
        base_folder(path)


@pytest.mark.parametrize("path", ["/shared/coxswain", "/srv/team", "/home/dora/coxswain/", "/var/lib/coxswain", "/nfs"])
def test_a_folder_of_a_team_is_a_base(path):
    assert base_folder(path) == path.rstrip("/")


# Pools and host keys


def test_a_pool_has_an_authority_whose_private_half_lies_sealed(pool):
    assert pool.authorized_key.startswith("cert-authority,restrict,pty,port-forwarding,principals=")
    assert f'principals="coxswain-{pool.uuid}" ssh-ed25519 AAAA' in pool.authorized_key
    assert pool.authorized_key.endswith(" coxswain desks")
    assert "PRIVATE KEY" not in pool.key_private
    assert pool.authorized_key in pool.authorizing


def test_a_form_that_is_sent_twice_makes_one_pool(config, alice, rings):
    uuid = uuid4()
    made = [
        pools.create_pool(config, name="desks", user="team", base="/shared/x", by=alice, uuid=uuid) for _ in range(2)
    ]
    assert made[0].key_public == made[1].key_public
    assert Pool.objects.count() == 1
    assert verbs() == [("created", "pool", "desks")]


def test_a_key_is_pinned_when_somebody_has_confirmed_what_they_saw(config, pool, alice):
    (one, other) = pools.add_computers(config, pool, [("n1", 22), ("n2", 2222)], by=alice)
    assert pools.add_computers(config, pool, [("n1", 22)], by=alice) == []
    keys = key(), key()
    standing.write_keys({one.pk: keys[0], other.pk: keys[1]}, {})
    seen = [(one.uuid, fingerprint(keys[0])), (other.uuid, fingerprint(keys[0]))]
    with pytest.raises(Conflict, match="n2:2222 shows another host key by now"):
        pools.confirm_keys(config, pool, seen, by=alice)
    assert not Computer.objects.exclude(host_public="").exists()
    assert pools.confirm_keys(config, pool, seen[:1], by=alice) == [one]
    one.refresh_from_db()
    assert (one.host_public, one.host_shown, one.state) == (keys[0], "", "new")
    assert one.badge.word == "CHECKING"
    standing.write_keys({one.pk: key()}, {})
    one.refresh_from_db()
    assert (one.host_public, one.host_shown) == (keys[0], ""), "what is pinned stays"
    assert history(one) == ["Alice has added it.", f"Alice has confirmed its host key, {fingerprint(keys[0])}."]
    assert verbs()[-1] == ("host key confirmed", "computer", "n1")


def test_another_key_is_refused_until_it_is_accepted_as_it_was_seen(config, pool, alice):
    desk, new = make(pool, "desk1"), key()
    finding = Finding(desk, another_key=True)
    finding.add("Host key", False, "Another one.")
    for _ in range(2):
        standing.write_down(pool, [finding], {desk.pk: new})
    desk.refresh_from_db()
    assert (desk.state, desk.host_shown, desk.is_lost) == ("refused", new, True)
    with pytest.raises(Conflict):
        pools.accept_new_key(config, desk, fingerprint(key()), by=alice)
    pools.accept_new_key(config, desk, fingerprint(new), by=alice)
    desk.refresh_from_db()
    assert (desk.host_public, desk.host_shown, desk.state) == (new, "", "refused"), "until it was checked"
    assert [words.split()[0] for words in history(desk)] == ["REFUSED:", "Alice"], "told once"
    assert verbs()[-1] == ("host key changed", "computer", "desk1")


def test_a_check_that_began_before_a_key_was_accepted_says_nothing_of_it(config, pool, alice):
    desk = make(pool, "desk1", host_shown=key(), state="refused")
    began = Computer.objects.get(pk=desk.pk)
    pools.accept_new_key(config, desk, desk.fingerprint_shown, by=alice)
    standing.write_down(pool, [Finding(began, another_key=True)], {desk.pk: key()})
    desk.refresh_from_db()
    assert desk.host_shown == ""


def test_what_is_taken_is_not_removed_nor_is_its_pool_nor_its_configuration(config, pool, lab, alice):
    desk, free = make(pool, "desk1", subject="c", rank=0, is_leaving=True), make(pool, "desk2")
    with pytest.raises(PortalError, match="desk1 is taken"):
        pools.remove_computer(config, desk, by=alice)
    with pytest.raises(PortalError, match="taken still: desk1"):
        pools.delete_pool(config, pool, by=alice)
    with pytest.raises(PortalError, match="taken still: desk1"):
        delete_cloud_config(config, by=alice)
    pools.remove_computer(config, free, by=alice)
    Computer.objects.filter(pk=desk.pk).update(**Computer.FREE)
    workspace = Workspace.objects.create(
        organization=config.organization, cloud_config=config, name="w", region="desks", status="ready"
    )
    with pytest.raises(PortalError, match="workspaces in this pool"):
        pools.delete_pool(config, pool, by=alice)
    workspace.delete()
    delete_cloud_config(config, by=alice)
    assert not Pool.objects.exists()


def test_pools_go_with_their_organization_and_keep_it_while_a_computer_is_to_be_swept(client, config, pool, alice):
    Membership.objects.filter(organization=config.organization).exclude(user=alice).delete()
    desk = make(pool, "desk1", subject=str(uuid4()), rank=0, is_leaving=True)
    client.force_login(alice)
    page = words(client.post("/organization/delete/", {"name": config.organization.name}))
    assert "taken still: desk1" in page
    Computer.objects.filter(pk=desk.pk).update(**Computer.FREE)
    client.post("/organization/delete/", {"name": config.organization.name})
    config.organization.refresh_from_db()
    assert config.organization.deleted
    assert not Pool.objects.exists(), "its authority is of no use to anybody"


# What becomes of a computer


def answer(desk, **facts):
    usual = {
        "hostname": desk.hostname, "cores": 4, "vcpus": 8, "memory_gib": 15.5, "architecture": "x86_64",
        "boot_id": "one", "load": 0.5,
    }  # fmt: skip
    return Finding(desk, facts=usual | facts)


def test_a_computer_is_away_when_it_was_silent_for_more_than_a_minute(pool):
    with time_machine.travel(NOW, tick=False) as clock:
        desk = make(pool, "desk1", seen=NOW)
        for seconds in (20, 20, 20):
            clock.shift(timedelta(seconds=seconds))
            standing.write_looks(pool, {}, {desk.pk: "No route to host"})
            desk.refresh_from_db()
            assert (desk.state, desk.silence) == ("ready", "No route to host")
        standing.write_looks(pool, {desk.pk: standing.Look("one", 1.5)}, {})
        desk.refresh_from_db()
        assert (desk.state, desk.silence, desk.load, desk.seen) == ("ready", "", 1.5, NOW + timedelta(seconds=60))
        clock.shift(timedelta(seconds=76))
        for _ in range(2):  # one alone may be late: nobody has looked for so long
            assert desk.state == "ready"
            standing.write_looks(pool, {}, {desk.pk: "No route to host"})
            desk.refresh_from_db()
        assert (desk.state, history(desk)) == ("away", ["It does not answer: No route to host"])


def test_one_that_is_back_is_checked_before_a_cluster_gets_it(pool, monkeypatch):
    monkeypatch.setattr(standing, "BETWEEN", timedelta(0))
    desk = make(pool, "desk1", state="away", seen=NOW)
    standing.write_down(pool, [], {})
    standing.write_looks(pool, {desk.pk: standing.Look("two", 0.1)}, {})
    desk.refresh_from_db()
    pool.refresh_from_db()
    assert desk.state == "away"
    assert standing.due().get() == pool
    standing.write_down(pool, [answer(desk, boot_id="two")], {})
    desk.refresh_from_db()
    assert (desk.state, desk.boot_id) == ("ready", "two")
    assert history(desk) == ["It was rebooted.", "It answers again, and is READY."]
    assert not standing.due().exists()


def test_what_failed_is_told_once_and_when_it_is_something_else(pool):
    desk = make(pool, "desk1")
    for name, message in (("Programs", "git is missing."), ("Programs", "git is missing."), ("Clock", "It is slow.")):
        finding = answer(desk)
        finding.add("Python", True, "Python 3.11.")
        finding.add(name, False, message, "Do something.")
        standing.write_down(pool, [finding], {})
    desk.refresh_from_db()
    assert desk.state == "refused"
    assert [line["name"] for line in desk.facts["lines"]] == ["Clock", "Python"], "what failed is read first"
    assert desk.failing == [{"name": "Clock", "ok": False, "message": "It is slow.", "advice": "Do something."}]
    standing.write_down(pool, [answer(desk, cores=8)], {})
    assert history(desk) == [
        "REFUSED: git is missing.",
        "REFUSED: It is slow.",
        "It has 8 cores now, x86_64; they were 4.",
        "It passes every check again and is READY.",
    ]


def test_who_asks_while_a_check_goes_on_gets_another_one(pool):
    standing.want_check(pool)
    began = standing.due().get()
    standing.want_check(pool, somebody_waits=True)
    standing.write_down(began, [], {})
    assert standing.due().get().check_asked


def test_pages_hear_of_a_look_where_people_would_see_a_difference(pool):
    desk = make(pool, "desk1")
    assert standing.write_looks(pool, {desk.pk: standing.Look("one", 0.3)}, {}) is False
    assert standing.write_looks(pool, {desk.pk: standing.Look("one", 2.0)}, {}) is True
    assert standing.write_looks(pool, {}, {desk.pk: "No route to host"}) is True
    assert standing.write_looks(pool, {}, {desk.pk: "No route to host"}) is False


@pytest.mark.django_db(transaction=True)
def test_a_pool_whose_key_cannot_be_opened_is_said_to_be_so(pool, settings):
    desk = make(pool, "desk1")
    settings.ENCRYPTION_KEYS = ["another one"]
    asyncio.run(poolwatch.PoolCheckWatcher().look_after(pool.pk))
    desk.refresh_from_db()
    assert (desk.state, desk.silence) == ("away", poolwatch.NO_KEY)


# Pages


@pytest.fixture
def cluster(config, lab, harbor):
    workspace = Workspace.objects.create(
        organization=harbor, cloud_config=config, name="bench", region="desks", status="ready"
    )
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="2026.1", defaults={"packages": []})
    return Cluster.objects.create(
        workspace=workspace, name="tide", instance_type="4x16", cores_per_node=4, node_count=1, engine_version=engine,
        status="running",
    )  # fmt: skip


def test_the_form_of_own_machines_leads_to_a_pool_and_its_line(client, alice, rings):
    client.force_login(alice)
    new = reverse("new-cloud-config")
    assert "You paste one line into" in words(client.get(f"{new}?kind=machines"))
    made = client.post(new, {"kind": "machines", "name": "Desks"}, follow=True)
    config = CloudConfig.objects.get(name="Desks")
    assert made.redirect_chain[-1][0] == config.get_absolute_url()
    assert "No pools yet" in words(made)
    form = reverse("new-pool", args=[config.uuid])
    refused = client.post(form, {"name": "Desks!", "user": "root", "base": "/home"})
    for sentence in ("begin and end with a letter", "Not root", "Choose a folder inside of it"):
        assert sentence in words(refused)
    page = client.post(form, {"name": "desks", "user": "team", "base": "/shared/x"}, follow=True)
    pool = Pool.objects.get()
    assert "No computers yet" in words(page)
    assert pool.key_public.split()[1] in page.content.decode()
    assert "There is a pool of this name" in words(client.post(form, {"name": "Desks", "user": "t", "base": "/s/x"}))
    assert client.get(reverse("new-pool", args=[uuid4()])).status_code == 404


def test_a_pool_s_page_says_who_has_what_and_what_is_wrong(client, alice, pool, cluster):
    make(pool, "desk1")
    make(pool, "desk2", **taken(cluster))
    make(pool, "desk3", state="refused", failing=[{"name": "x", "ok": False, "message": "git is missing."}])
    make(pool, "desk4", state="away", silence="No route to host")
    make(pool, "desk5", is_disabled=True)
    make(pool, "desk6", host_public="", state="new", hostname="", silence="Connection refused")
    client.force_login(alice)
    page = words(client.get(reverse("pool", args=[pool.uuid])))
    for said in ("IN USE", "tide", "git is missing.", "AWAY", "No route to host", "DISABLED", "Connection refused"):
        assert said in page
    assert cluster.get_absolute_url() not in page, "alice is in no workspace of it"
    assert "Confirm the chosen ones" not in page
    only = words(client.get(reverse("pool", args=[pool.uuid]), {"state": "free"}))
    assert "desk1" in only
    assert "desk2" not in only
    assert "No computer is like that" in words(client.get(reverse("pool", args=[pool.uuid]), {"q": "nothing"}))


def test_a_person_confirms_what_they_have_ticked(client, alice, pool, config):
    pools.add_computers(config, pool, [("n1", 22), ("n2", 22)], by=alice)
    one, other = pool.computers.order_by("pk")
    standing.write_keys({one.pk: key(), other.pk: key()}, {})
    client.force_login(alice)
    page = client.get(reverse("pool", args=[pool.uuid]))
    one.refresh_from_db()
    ticked = f"{one.uuid} {one.fingerprint_shown}"
    assert f'value="{ticked}"' in page.content.decode()
    confirm = reverse("confirm-keys", args=[pool.uuid])
    assert "Tick the computers" in words(client.post(confirm, {"computer": "x"}, follow=True))
    assert "1 computer confirmed" in words(client.post(confirm, {"computer": ticked}, follow=True))
    assert list(Computer.objects.exclude(host_public="")) == [one]
    other.refresh_from_db()
    standing.write_keys({other.pk: key()}, {})
    stale = {"computer": f"{other.uuid} {other.fingerprint_shown}"}
    assert "shows another host key by now" in words(client.post(confirm, stale, follow=True))


def test_a_new_key_is_accepted_by_typing_and_only_the_one_that_was_seen(client, alice, pool):
    desk = make(pool, "desk1", host_shown=key(), state="refused")
    client.force_login(alice)
    page = words(client.get(reverse("computer", args=[desk.uuid])))
    assert desk.fingerprint in page
    assert desk.fingerprint_shown in page
    address = reverse("accept-key", args=[desk.uuid])
    asked = client.get(address)
    assert desk.fingerprint_shown in words(asked)
    seen = {"seen": desk.fingerprint_shown}
    assert "That is not desk1." in words(client.post(address, {**seen, "name": "yes"}))
    standing.write_down(pool, [Finding(desk, another_key=True)], {desk.pk: key()})
    assert "does not show this key any more" in words(client.post(address, {**seen, "name": "desk1"}))
    desk.refresh_from_db()
    done = client.post(address, {"seen": desk.fingerprint_shown, "name": "desk1"})
    assert done.url == reverse("computer", args=[desk.uuid])
    assert client.get(address).status_code == 302, "there is nothing to accept any more"


def test_a_computer_s_page_has_its_check_its_cluster_and_its_history(client, alice, pool, cluster):
    desk = make(pool, "desk1", **taken(cluster))
    finding = answer(desk)
    finding.add("Load", None, "Load 3.0 on 8 CPUs.", "Disable it while somebody else needs it.")
    finding.add("Python", True, "Python 3.11.")
    standing.write_down(pool, [finding], {})
    standing.tell(desk, "Taken by a cluster.")
    client.force_login(alice)
    page = words(client.get(reverse("computer", args=[desk.uuid])))
    for said in ("Load 3.0 on 8 CPUs.", "Disable it while", "Python 3.11.", "Taken by a cluster.", "tide", "15.5 GiB"):
        assert said in page
    assert "It is taken" in words(client.get(reverse("remove-computer", args=[desk.uuid])))
    assert "is taken" in words(client.post(reverse("remove-computer", args=[desk.uuid]), {"name": "desk1"}))
    client.post(reverse("disable-computer", args=[desk.uuid]))
    assert "DISABLED" in words(client.get(reverse("computer", args=[desk.uuid])))
    client.post(reverse("enable-computer", args=[desk.uuid]))
    assert [verb for verb, *_ in verbs()][-2:] == ["disabled", "enabled"]


def test_strangers_and_members_see_nothing_of_it(client, bob, charlie, pool):
    desk = make(pool, "desk1")
    for person in (bob, charlie):
        client.force_login(person)
        for page in (reverse("pool", args=[pool.uuid]), reverse("computer", args=[desk.uuid])):
            assert client.get(page).status_code == 404


# Accounts


def test_another_account_has_the_same_computers_a_line_of_its_own_and_one_workspace(client, alice, config, pool, rings):
    desk = make(pool, "desk1")
    pool.computers.create(address="10.0.0.9")  # whose key nobody has confirmed
    client.force_login(alice)
    address = reverse("new-pool", args=[config.uuid]) + f"?like={pool.uuid}"
    assert address in words(client.get(reverse("pool", args=[pool.uuid])))
    page = words(client.get(address))
    assert "Another account on desks" in page
    assert re.search(r'name="alone"[^>]* checked', page)
    form = {"name": "guests", "user": "team", "base": "/shared/guests", "alone": "on", "key": uuid4()}
    assert "The pool desks has this account." in words(client.post(address, form))
    client.post(address, form | {"user": "guest"})
    made = Pool.objects.get(name="guests")
    (same,) = made.computers.all()
    assert (same.host_public, same.state, same.where) == (desk.host_public, "new", desk.where)
    assert history(same) == ["Alice has added it, with the host key that was confirmed in the pool desks."]
    assert made.authorized_key != pool.authorized_key
    assert made.check_due
    page = words(client.get(reverse("pool", args=[made.uuid])))
    assert "It is for one workspace alone" in page
    assert "The same computers are in" in page

    new = {"name": "one", "cloud_config": config.uuid, "region": "guests"}
    client.post(reverse("new-workspace"), new | {"key": uuid4()})
    assert Workspace.objects.get(name="one").region == "guests"
    page = words(client.post(reverse("new-workspace"), new | {"name": "two", "key": uuid4()}))
    assert "The pool guests is for one workspace alone, and has one." in page
    with pytest.raises(Conflict, match="has one"):
        create_workspace(config.organization, name="two", cloud_config=config, region="guests", by=alice, uuid=uuid4())


def test_the_computers_of_another_configuration_are_not_copied(client, alice, harbor, config, pool):
    make(pool, "desk1")
    other = CloudConfig.objects.create(organization=harbor, name="Others", kind="machines")
    client.force_login(alice)
    form = {"name": "guests", "user": "guest", "base": "/shared/guests", "key": uuid4()}
    client.post(reverse("new-pool", args=[other.uuid]) + f"?like={pool.uuid}", form)
    assert not Pool.objects.get(name="guests").computers.exists()


def test_a_configuration_has_so_many_pools_and_no_more(config, pool, alice, monkeypatch):
    monkeypatch.setattr(pools, "MOST_POOLS", 1)
    with pytest.raises(PortalError, match="1 pools at most"):
        pools.create_pool(config, name="more", user="team", base="/shared/more", by=alice, uuid=uuid4())
