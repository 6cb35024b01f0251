"""How requests share the threads of the web process."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import connection, connections
from django.http import HttpResponse
from django.urls import path

from portal.handler import MOST_IDLE, PageHandler

pytestmark = pytest.mark.django_db(transaction=True)

at_work, may_end = threading.Semaphore(0), threading.Semaphore(0)


def who(request):
    """Which thread, and whether it has a connection from before."""
    had = connection.connection is not None
    connection.ensure_connection()
    return HttpResponse(f"{threading.get_ident()} {had}")


def slow(request):
    at_work.release()
    assert may_end.acquire(timeout=20)
    return HttpResponse("done")


urlpatterns = [path("who/", who), path("slow/", slow)]


@pytest.fixture
def handler(settings):
    settings.ROOT_URLCONF = __name__
    handler = PageHandler()
    yield handler
    for thread in handler.idle:
        thread.submit(connection.close)
        thread.shutdown()


def call(handler, at):
    headers = [(b"host", b"testserver")]
    scope = {
        "type": "http",
        "method": "GET",
        "path": at,
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
    }
    return ApplicationCommunicator(handler, scope)


async def body(page):
    await page.send_input({"type": "http.request"})
    start = await page.receive_output(20)
    assert start["status"] == 200, start
    text = (await page.receive_output(20))["body"].decode()
    await page.wait(20)
    return text


def test_one_request_after_the_other_has_the_same_thread_and_its_connection(handler, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)

    async def one_by_one():
        return [await body(call(handler, "/who/")) for _ in range(3)]

    threads, had = zip(*(text.split() for text in asyncio.run(one_by_one())), strict=True)
    assert len(set(threads)) == 1
    assert had == ("False", "True", "True")


async def at_once(handler, count):
    pages = [call(handler, "/slow/") for _ in range(count)]
    answers = [asyncio.create_task(body(page)) for page in pages]
    for _ in range(count):
        assert await asyncio.to_thread(at_work.acquire, timeout=20), "requests wait for each other"
    may_end.release(count)
    return await asyncio.gather(*answers)


def test_requests_wait_for_no_other_and_few_threads_stay_afterwards(handler):
    assert asyncio.run(at_once(handler, MOST_IDLE + 4)) == ["done"] * (MOST_IDLE + 4)
    assert len(handler.idle) == MOST_IDLE
    assert asyncio.run(at_once(handler, 2)) == ["done"] * 2


def test_the_thread_of_a_person_who_has_gone_is_given_to_nobody_before_it_is_free(handler):
    async def gone():
        page = call(handler, "/slow/")
        await page.send_input({"type": "http.request"})
        assert await asyncio.to_thread(at_work.acquire, timeout=20)
        await page.send_input({"type": "http.disconnect"})
        assert not handler.idle
        other = await body(call(handler, "/who/"))
        may_end.release()
        await page.wait(20)
        return other

    assert asyncio.run(gone())
    assert len(handler.idle) == 2
