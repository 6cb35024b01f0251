"""The cloud "This computer": real nodes on the machine that the portal runs on. See `cloud.py`, and `node.py`."""

from portal.clouds.local.account import LocalAccount
from portal.clouds.local.cloud import LocalCloud
from portal.clouds.local.options import LocalOptions

__all__ = ["LocalAccount", "LocalCloud", "LocalOptions"]
