"""What clouds list, for everybody in this process who asks. No thread that has a database waits for a cloud."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from clusters.models import Cluster
from portal.clouds import CloudNode, Tags
from portal.errors import PortalError
from portal.tasks.threads import apart

Listed = dict[Tags, list[CloudNode]]


class _Place:
    """A region of a cloud configuration. It is asked one thing at a time."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.asked = float("-inf")  # when the question was put that `answer` is of
        self.answer: Listed | PortalError = {}


class Inventory:
    """One question to a region for all of its clusters, and for all who ask before it is put."""

    def __init__(self) -> None:
        self._places: defaultdict[tuple[int, str], _Place] = defaultdict(_Place)

    async def nodes(self, cluster: Cluster) -> list[CloudNode]:
        """The cluster's nodes as its cloud lists them from now on, lowest rank first. Raises `PortalError`.

        The cluster comes with its workspace, organization and cloud configuration: nothing is asked of the database.
        """
        place = self._places[cluster.workspace.cloud_config_id, cluster.workspace.region]
        clock = asyncio.get_running_loop().time
        began = clock()
        async with place.turn:
            if place.asked < began:
                asked = clock()
                try:
                    place.answer = await apart(lambda: cluster.workspace.cloud.inventory(cluster.tags.portal))
                except PortalError as error:
                    place.answer = error
                # Only now: whoever asked may have been cancelled meanwhile, and the answer that is there is older.
                place.asked = asked
        if isinstance(place.answer, PortalError):
            raise place.answer
        return next((nodes for tags, nodes in place.answer.items() if tags.subject == cluster.tags.subject), [])
