"""The portal's settings, in a throw-away data folder, with fast password hashes."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

_folder = tempfile.mkdtemp(prefix="cx-")  # short: a socket lies in it
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["PORTAL_VAR"] = _folder
os.environ["PORTAL_URL"] = "http://testserver"
os.environ["PORTAL_TRUSTED_PROXIES"] = "0"
os.environ.setdefault("PORTAL_LOG_FORMAT", "plain")

from portal.settings import *  # noqa: E402, F403
from portal.settings import DATABASES, RQ_QUEUES, STORAGES  # noqa: E402

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
WHITENOISE_AUTOREFRESH = True  # looks for a file when it is asked for; else each client of a test reads them all first
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # gw0, gw1, …: of one Redis, each has a database of its own
    for _queue in RQ_QUEUES.values():
        _queue["URL"] = f"{_queue['URL'][:-1]}{int(worker[2:]) + 1}"
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, because threads of one test share it as processes do.
    DATABASES["default"]["TEST"] = {"NAME": str(Path(_folder) / "test.sqlite3")}
    DATABASES["default"]["OPTIONS"]["init_command"] += " PRAGMA synchronous=OFF;"  # no test loses power
