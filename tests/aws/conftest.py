from __future__ import annotations

import pytest

from tests.aws.box import Box, why_not


@pytest.fixture(scope="session")
def box():
    """An emulated AWS with real nodes, for all tests, each of which removes what it made."""
    if why := why_not():
        pytest.skip(why)
    with Box() as made:
        yield made
