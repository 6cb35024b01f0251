from django.db import migrations, models
from django.db.models import F, Q


def give_turns(apps, schema_editor):
    """Runs that have begun had their turn, and have their cluster; the others wait as rows, without a task."""
    names = ("jobs.Run", "tasks.Task", "clusters.Cluster", "tasks.Step")
    here = schema_editor.connection.alias
    runs, tasks, clusters, steps = (apps.get_model(name).objects.using(here) for name in names)
    unfinished = tasks.filter(kind="jobs.run", status__in=("new", "inprogress"))
    waiting = runs.filter(status="new", started=None)
    unfinished.filter(subject_id__in=waiting.values("pk"), cancel_asked=False).delete()
    still = unfinished.filter(cancel_asked=True).values("subject_id")
    runs.exclude(pk__in=waiting.exclude(pk__in=still).values("pk")).update(turn=F("created"))
    steps.filter(task__in=unfinished, name="cluster").delete()
    for run in runs.filter(status="inprogress", ended=None):
        clusters.filter(pk=run.cluster_id).update(occupied_by=run.uuid)


class Migration(migrations.Migration):
    dependencies = [
        ("clusters", "0005_occupied_by"),
        ("jobs", "0005_verdicts"),
        ("tasks", "0004_plans_as_data"),
    ]

    operations = [
        migrations.AddField("run", "turn", models.DateTimeField(null=True)),
        migrations.AddIndex(
            "run", models.Index(fields=["cluster", "id"], condition=Q(("status", "new"), ("turn", None)), name="run_waiting")
        ),
        migrations.RunPython(give_turns, migrations.RunPython.noop, elidable=True),
    ]
