from django.db import migrations, models

ENDS_IN = {
    "workspaces.create": ("ready", "failed", "terminated"),
    "workspaces.delete": ("terminated", "failed", "failed"),
    "clusters.create": ("running", "failed", "terminated"),
    "clusters.repair": ("running", "failed", "failed"),
    "clusters.delete": ("terminated", "failed", "failed"),
    "jobs.run": None,
}


def keep_promises(apps, schema_editor):
    """What each task's plan says, written beside the task."""
    tasks = apps.get_model("tasks", "Task").objects.using(schema_editor.connection.alias)
    for kind, ends in ENDS_IN.items():
        then = dict(zip(("finished", "failed", "cancelled"), ends, strict=True)) if ends else {}
        promise = {
            "then": then,
            "undoes_on_cancel": kind.endswith((".create", ".run")),
            "undoes_on_failure": kind == "jobs.run",
            "destroys": kind.endswith(".delete"),
        }
        tasks.filter(kind=kind).update(plan=promise)


class Migration(migrations.Migration):
    dependencies = [("tasks", "0003_ranks")]

    operations = [
        migrations.AddField("task", "plan", models.JSONField(default=dict)),
        migrations.AddField("task", "woken", models.BooleanField(default=False)),
        migrations.RenameField("step", "attempts", "deaths"),
        migrations.AddField("step", "faults", models.PositiveSmallIntegerField(default=0)),
        migrations.AddField("step", "faulty_since", models.DateTimeField(null=True)),
        migrations.RunPython(keep_promises, migrations.RunPython.noop, elidable=True),
    ]
