import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models
from django.db.models import Exists, F, Max, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce


def fill(apps, schema_editor):
    """Runs know their workspace, and jobs when they ran; of each job, the last run needs somebody if it has failed."""
    here = schema_editor.connection.alias
    runs, jobs = (apps.get_model("jobs", name).objects.using(here) for name in ("Run", "Job"))
    runs.update(workspace=Subquery(jobs.filter(pk=OuterRef("job")).values("workspace")[:1]))
    last = runs.filter(job=OuterRef("pk")).order_by().values("job").annotate(last=Max("created")).values("last")
    # Each job once: an index of theirs is made after this, and PostgreSQL makes none while it has to look again at a
    # row that was changed twice.
    jobs.update(ran=Coalesce(Subquery(last), F("created")))
    later = runs.filter(job=OuterRef("job"), pk__gt=OuterRef("pk"), status__in=("failed", "finished"))
    runs.filter(~Exists(later), status="failed").update(needs_you=True)


class Migration(migrations.Migration):
    dependencies = [
        ("clusters", "0005_occupied_by"),
        ("jobs", "0006_runs_wait_as_rows"),
        ("workspaces", "0001_initial"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint("job", "job_names_unique"),
        migrations.AddField("job", "ran", models.DateTimeField(default=django.utils.timezone.now)),
        migrations.AddField("job", "deleted", models.DateTimeField(null=True)),
        migrations.AddField(
            "job",
            "deleted_by",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            "run",
            "workspace",
            models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="runs",
                to="workspaces.workspace",
            ),
        ),
        migrations.AddField("run", "needs_you", models.BooleanField(default=False)),
        # PostgreSQL alters no table whose rows were changed in the same transaction: the rest is in the next one.
        migrations.AddIndex("run", models.Index(fields=["job", "status", "id"], name="run_of_job_by_status")),
        migrations.AddConstraint(
            "job",
            models.UniqueConstraint(
                fields=["workspace", "name"], condition=Q(("deleted", None)), name="live_job_names_unique"
            ),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=True),
    ]
