import pytest

from tests.machines.computers import Computers, why_not


@pytest.fixture(scope="module")
def computers():
    """Three of them, for the tests of one file, each of which leaves them as it found them."""
    if why := why_not():
        pytest.skip(why)
    with Computers(3) as three:
        yield three
