"""Jobs of the examples, when the portal answers somewhere else than it did."""

from __future__ import annotations

import pytest

from jobs.repositories import where_it_is_now


@pytest.mark.parametrize("kept", ["http://127.0.0.1:8000/examples/flights", "http://localhost:8017/examples/flights/"])
def test_an_example_is_cloned_from_where_the_portal_is_now(settings, kept):
    settings.PORTAL_URL = "http://127.0.0.1:8001"
    assert where_it_is_now(kept) == "http://127.0.0.1:8001/examples/flights"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:3000/team/flights",
        "http://127.0.0.1:3000/examples/no-example",
        "https://git.example.org/examples/flights",
        "ssh://git@127.0.0.1/examples/flights",
    ],
)
def test_any_other_address_stays_as_it_is(settings, address):
    settings.PORTAL_URL = "http://127.0.0.1:8001"
    assert where_it_is_now(address) == address
