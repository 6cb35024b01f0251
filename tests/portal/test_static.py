from __future__ import annotations

import warnings
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "static" / "portal" / "portal.js"


@pytest.mark.parametrize("more", [{}, {"range": "bytes=10-19"}], ids=["whole", "range"])
async def test_a_server_that_is_asynchronous_serves_a_static_file_without_a_complaint(async_client, more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = await async_client.get("/static/portal/portal.js", headers=more)
        body = b"".join([piece async for piece in answer.streaming_content])
    assert body == (FILE.read_bytes()[10:20] if more else FILE.read_bytes())


def test_so_does_one_that_is_not(client):
    answer = client.get("/static/portal/portal.js")
    assert b"".join(answer.streaming_content) == FILE.read_bytes()
