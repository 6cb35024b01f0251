from __future__ import annotations

import contextlib
import functools

import botocore.session
import pytest

from tests.aws import outsiders
from tests.aws.box import Box, Emulator, why_not

# What botocore knows of EC2 alone is megabytes, and each session would read it anew.
setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))  # noqa: B010


@contextlib.contextmanager
def _or_skip():
    try:
        yield
    except outsiders.NotToBeHad as why:
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def box():
    """An emulated AWS with real nodes, for all tests, each of which removes what it made."""
    if why := why_not():
        pytest.skip(why)
    with Box() as made:
        yield made


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """The emulator alone, without nodes: for whom has no need of root."""
    made = Emulator(tmp_path_factory.mktemp("moto"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The address of another emulator, ministack, which judges policies and external ids."""
    with _or_skip():
        outsiders.environment("ministack")
    with outsiders.ministack(tmp_path_factory.mktemp("ministack")) as address:
        yield address


@pytest.fixture(scope="session")
def _burst(moto, tmp_path_factory):
    with _or_skip():
        outsiders.environment("microburst")
    with outsiders.microburst(tmp_path_factory.mktemp("microburst"), moto.endpoint) as faults:
        yield faults


@pytest.fixture
def faults(_burst):
    """What is to go wrong between the portal and `moto`: ask `faults.endpoint` in its place."""
    yield _burst
    _burst.clear()
