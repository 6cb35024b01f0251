"""The store of this computer: a folder, and what several processes do in it at once."""

from __future__ import annotations

import os
import threading

from portal.clouds.local import store as module
from portal.clouds.local.store import FolderStore


def test_the_last_of_a_folder_is_deleted_while_something_is_written_beside_it(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    store.put("outputs/a/old", b"old")
    deletes = threading.Thread(target=store.delete, args=["outputs/a/old"])
    replace = os.replace

    def replace_late(draft, path):
        deletes.start()
        deletes.join(0.5)  # it may have to wait for its turn
        replace(draft, path)

    monkeypatch.setattr(module.os, "replace", replace_late)
    store.put("outputs/a/new", b"new")
    deletes.join(20)
    assert store.list() == ["outputs/a/new"]
