"""The cloud "This computer": real nodes on the machine that the portal runs on. See `cloud.py`, and `node.py`."""

from portal.clouds.local.cloud import LocalCloud

__all__ = ["LocalCloud"]
