"""Strays are subjects of tasks: each gets a uuid and a status."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import migrations, models


def fill(apps: Any, schema_editor: Any) -> None:
    """Each row is written once: PostgreSQL alters no table of which this transaction has written a row twice."""
    stray = apps.get_model("workspaces", "Stray")
    rows = stray.objects.using(schema_editor.connection.alias)
    filled = [
        stray(pk=pk, uuid=uuid.uuid4(), status="there" if ended is None else "gone")
        for pk, ended in rows.values_list("pk", "ended")
    ]
    rows.bulk_update(filled, ["uuid", "status"], batch_size=500)


class Migration(migrations.Migration):
    dependencies = [("workspaces", "0006_checks")]

    operations = [
        migrations.RenameField("stray", "organization", "organization_tag"),
        migrations.RenameField("stray", "workspace", "workspace_tag"),
        migrations.AddField("stray", "uuid", models.UUIDField(null=True, editable=False)),
        migrations.AddField(
            "stray",
            "status",
            models.CharField(
                max_length=8,
                choices=[("there", "There"), ("ending", "Ending"), ("failed", "Failed"), ("gone", "Gone")],
                default="there",
            ),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AlterField("stray", "uuid", models.UUIDField(default=uuid.uuid4, unique=True, editable=False)),
        migrations.AddConstraint(
            "stray",
            models.CheckConstraint(
                condition=models.Q(status__in=["there", "ending", "failed", "gone"]), name="stray_status_known"
            ),
        ),
    ]
