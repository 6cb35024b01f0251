from __future__ import annotations

import pytest

from portal.tasks import keeping
from portal.tasks.outputs import Output


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(Output, "CHUNK", 64)
    monkeypatch.setattr(keeping, "PART", 256)
    monkeypatch.setattr(keeping, "AT_ONCE", 3)


@pytest.fixture
def objects(settings, tmp_path):
    """The folder of the store, empty."""
    settings.STORAGES = {
        **settings.STORAGES,
        "outputs": {"BACKEND": "portal.tasks.stores.Folder", "OPTIONS": {"location": tmp_path}},
    }
    return lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
