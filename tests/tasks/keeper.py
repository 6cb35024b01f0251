"""A process that keeps one output, to be killed: `python -m tests.tasks.keeper DATABASE FOLDER OUTPUT`."""

from __future__ import annotations

import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django
from django.conf import settings
from django.db import connection


def main(database, folder, output):
    django.setup()
    connection.settings_dict["NAME"] = database
    settings.STORAGES["outputs"]["OPTIONS"]["location"] = folder
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

    from portal.tasks import keeping
    from portal.tasks.outputs import Output

    Output.CHUNK, keeping.PART, keeping.AT_ONCE = 64, 256, 3
    print("ready", flush=True)
    sys.stdin.readline()
    keeping.keep(Output.objects.get(pk=output))


if __name__ == "__main__":
    main(*sys.argv[1:])
