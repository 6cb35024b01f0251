"""The watch process and real computers: keys are asked for, pools are checked, and who is away, back or given back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils.timezone import now

from portal.clouds.machines import standing
from portal.clouds.machines.models import Computer
from portal.clouds.types import Tags
from portal.tasks.threads import DATABASE
from tests.machines.computers import SHARED, USER
from workspaces import pools, poolwatch
from workspaces.models import CloudConfig

pytestmark = pytest.mark.django_db(transaction=True)


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture
def config(harbor):
    return CloudConfig.objects.create(organization=harbor, name="Own machines", kind="machines")


@pytest.fixture
def pool(config, alice, computers, rings):
    """Whose line was pasted, and whose computers were added."""
    made = pools.create_pool(config, name="desks", user=USER, base=f"{SHARED}/coxswain", by=alice, uuid=uuid4())
    computers.paste(made.authorized_key)
    pools.add_computers(config, made, [(one.address, one.port) for one in computers], by=alice)
    return made


@pytest.fixture
def looks(monkeypatch):
    monkeypatch.setattr(poolwatch, "LOOK_EVERY", 0.2)
    monkeypatch.setattr(poolwatch, "ANSWER_WITHIN", 1.0)
    monkeypatch.setattr(standing, "AWAY_AFTER", timedelta(seconds=2))
    monkeypatch.setattr(standing, "BETWEEN", timedelta(seconds=1))


async def check(pool):
    await poolwatch.PoolCheckWatcher().look_after(pool.pk)


def check_now(pool):
    asyncio.run(check(pool))


def confirm_all(config, pool, by):
    keys = [(one.uuid, one.fingerprint_shown) for one in pool.computers.all()]
    pools.confirm_keys(config, pool, keys, by=by)
    check_now(pool)


def standing_of(pool):
    return {one.hostname or one.address: one.state for one in pool.computers.order_by("pk")}


def told(one):
    return [event.words for event in Computer.objects.get(hostname=one.name).events.all()]


def test_a_computer_is_signed_in_to_after_its_key_was_confirmed_and_not_before(config, pool, computers, alice, rings):
    assert set(poolwatch._due()) == {pool.pk}
    check_now(pool)
    for row, one in zip(pool.computers.order_by("pk"), computers, strict=True):
        assert (row.host_shown, row.host_public, row.state) == (one.host_public, "", "new")
        assert str(pool.uuid) not in one.log
    confirm_all(config, pool, alice)
    assert standing_of(pool) == {"desk1": "ready", "desk2": "ready", "desk3": "ready"}
    assert f"organization.{config.organization.uuid}" in rings
    assert poolwatch._due() == set()
    pool.refresh_from_db()
    assert pool.check_due - pool.checked == standing.EVERY


def test_a_changed_key_is_refused_with_both_and_nothing_signs_in(config, pool, computers, alice):
    check_now(pool)
    confirm_all(config, pool, alice)
    first = computers.computer[0]
    was, shown = first.host_public, first.new_host_key()
    check_now(pool)
    row = pool.computers.get(hostname=first.name)
    assert (row.state, row.host_public, row.host_shown) == ("refused", was, shown)
    assert row.failing[0]["name"] == "Host key"
    pools.accept_new_key(config, row, row.fingerprint_shown, by=alice)
    check_now(pool)
    assert standing_of(pool)[first.name] == "ready"


async def looked_after(pool, condition, what):
    """Look at its computers until the condition is true; checks are done where they are due."""
    watcher = poolwatch.ComputerWatcher()
    looking = asyncio.create_task(watcher.look_after(pool.pk))
    try:
        async with asyncio.timeout(60):
            while not await DATABASE(condition)():
                assert not looking.done(), looking.exception()
                if await DATABASE(poolwatch._due)():
                    await check(pool)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true") from None
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        watcher.close()


@pytest.mark.parametrize("trouble", ["unplug", slow("freeze"), slow("kill_sshd")])
def test_one_that_does_not_answer_is_away_and_comes_back_by_itself(config, pool, computers, alice, looks, trouble):
    check_now(pool)
    confirm_all(config, pool, alice)
    back = {"unplug": "plug", "freeze": "thaw", "kill_sshd": "start_sshd"}[trouble]
    third = computers.computer[2]
    getattr(third, trouble)()
    try:
        asyncio.run(looked_after(pool, lambda: standing_of(pool)["desk3"] == "away", "AWAY"))
        others = {name: state for name, state in standing_of(pool).items() if name != "desk3"}
        assert others == {"desk1": "ready", "desk2": "ready"}
    finally:
        getattr(third, back)()
    asyncio.run(looked_after(pool, lambda: standing_of(pool)["desk3"] == "ready", "its return"))
    assert [words.split(":")[0] for words in told(third)][:2] == [
        "It answers again, and is READY.", "It does not answer",
    ]  # fmt: skip


def test_a_reboot_is_seen(config, pool, computers, alice, looks):
    check_now(pool)
    confirm_all(config, pool, alice)
    second = computers.computer[1]
    second.reboot()
    asyncio.run(looked_after(pool, lambda: "It was rebooted." in told(second), "a sentence of the reboot"))
    asyncio.run(looked_after(pool, lambda: standing_of(pool)["desk2"] == "ready", "READY"))


def test_what_was_given_back_while_it_was_away_is_swept_when_it_is_back(config, pool, computers, alice, looks):
    check_now(pool)
    confirm_all(config, pool, alice)
    first = computers.computer[0]
    cluster = uuid4()
    tags = vars(Tags("portal", str(config.organization.uuid), str(uuid4()), str(cluster)))
    first.run(f"COXSWAIN_LENT_TO={cluster} setsid sleep 987 >/dev/null 2>&1 </dev/null &")
    row = pool.computers.get(hostname=first.name)
    Computer.objects.filter(pk=row.pk).update(
        **tags, rank=0, is_leaving=True, state="away", left=now() - timedelta(minutes=3)
    )
    asyncio.run(looked_after(pool, lambda: not Computer.objects.get(pk=row.pk).is_taken, "the sweep"))
    assert "sleep 987" not in [process.words for process in first.processes("team")]
    assert "Swept, and free again." in told(first)
    asyncio.run(looked_after(pool, lambda: standing_of(pool)["desk1"] == "ready", "READY"))
