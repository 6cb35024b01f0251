"""Very many who sign in at once, on a real portal: those who are in notice little of it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from tests.running import RunningPortal
from tests.web import Client

pytestmark = pytest.mark.slow

MANY = 300


@pytest.fixture(scope="module")
def portal():
    folder = Path(tempfile.mkdtemp(prefix="cx-storm-"))
    portal = RunningPortal(folder, PORTAL_TRUSTED_PROXIES="1").start()
    portal.who = portal.call("setup")
    yield portal
    portal.stop()
    shutil.rmtree(folder, ignore_errors=True)


async def sign_in(portal, cookie, body, address):
    """A try from this address. The status and the page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", portal.port)
    head = (
        "POST /accounts/login/ HTTP/1.1",
        f"Host: 127.0.0.1:{portal.port}",
        f"Origin: {portal.url}",
        f"Cookie: {cookie}",
        f"X-Forwarded-For: {address}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer.decode()


def storm(portal, addresses):
    """All at once, as one thread. Returns the thread, and the list of answers that it fills."""
    visitor = Client(portal.url)
    form = visitor.form("/accounts/login/")
    answers = []

    async def blow():
        tries = []
        for n, address in enumerate(addresses):
            fields = {**form, "login": f"nobody{n}@example.org", "password": "wrong wrong wrong"}
            body = urllib.parse.urlencode(fields).encode()
            tries.append(sign_in(portal, visitor.cookie, body, address))
        answers.extend(await asyncio.gather(*tries))

    thread = threading.Thread(target=lambda: asyncio.run(blow()))
    thread.start()
    return thread, answers


def seconds_of_a_page(person):
    began = time.monotonic()
    assert b"Set up" in person.get("/")
    return time.monotonic() - began


@pytest.mark.parametrize("addresses", [["198.51.100.7"] * MANY, [f"10.0.{n >> 8}.{n & 255}" for n in range(MANY)]])
def test_who_is_signed_in_is_served_while_very_many_sign_in(portal, addresses):
    person = Client(portal.url).sign_in(portal.who["email"], portal.who["password"])
    alone = [seconds_of_a_page(person) for _ in range(15)]
    thread, answers = storm(portal, addresses)
    meanwhile = []
    while thread.is_alive():
        meanwhile.append(seconds_of_a_page(person))
    thread.join()
    told = Counter(status for status, _ in answers)
    assert set(told) <= {200, 429, 503}, told
    if len(set(addresses)) == 1:
        assert told[429] >= MANY - 2 * 30, "a minute of the clock may have ended meanwhile"
    else:
        assert told[200] >= 1
        assert told[503] >= MANY / 2, "they would wait for each other"
        # The other one is of SQLite, whose one writer may be waited for in vain on a busy machine.
    said = ("Many people sign in at this moment", "The portal is being looked after")
    assert [page for status, page in answers if status == 503 and not any(words in page for words in said)] == []
    assert len(meanwhile) >= 10, "each page waited for the storm"
    assert median(meanwhile) <= 10 * median(alone), (median(meanwhile), median(alone))
