"""How busy nodes are: what is asked and answered while another thread writes samples down."""

from __future__ import annotations

import sys
import threading
from unittest.mock import MagicMock

import pytest

from clusters import samples
from clusters.models import Cluster, Node


@pytest.fixture
def quick_turns():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_turns")
def test_nodes_may_be_asked_while_samples_are_kept(monkeypatch):
    """Both go on at once in a watch process; a failure there would end the looks at all nodes."""
    monkeypatch.setattr(samples, "_redis", MagicMock)
    found, over, failed = samples.Samples(), threading.Event(), []

    def keep():
        while not over.is_set():
            try:
                found.keep()
            except RuntimeError as error:
                failed.append(error)
                return

    thread = threading.Thread(target=keep)
    thread.start()
    cluster = Cluster(cores_per_node=2)
    for pk in range(20_000):
        found.command(Node(pk=pk, cluster=cluster))
    over.set()
    thread.join(20)
    assert not failed
