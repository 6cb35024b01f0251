"""Chunks of many writers. What was stored before was of one stream and no rank: it gets one entry a chunk.

There is no way back: what ranks wrote could be kept by no earlier version.
"""

import struct

from django.db import migrations, models

ENTRY = struct.Struct(">BHIII")
NO_RANK = 0xFFFFFFFF
BATCH = 500


def fill_segments(apps, schema_editor):
    chunks = apps.get_model("tasks", "Chunk").objects.using(schema_editor.connection.alias)
    last = 0
    while batch := list(chunks.filter(pk__gt=last).order_by("pk").only("stream", "size")[:BATCH]):
        for chunk in batch:
            chunk.segments = ENTRY.pack(chunk.stream, 0, NO_RANK, chunk.size, 0)
        chunks.bulk_update(batch, ["segments"])
        last = batch[-1].pk


class Migration(migrations.Migration):
    dependencies = [("tasks", "0002_staff_lists")]

    operations = [
        migrations.AddField("output", "log", models.BigIntegerField(default=0)),
        migrations.AddField("output", "nodes", models.JSONField(default=dict)),
        migrations.AddField("chunk", "segments", models.BinaryField(default=b""), preserve_default=False),
        migrations.RunPython(fill_segments),
        migrations.RemoveField("chunk", "stream"),
        migrations.RemoveField("chunk", "offset"),
    ]
