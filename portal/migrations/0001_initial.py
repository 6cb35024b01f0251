import uuid

from django.conf import settings
from django.db import migrations, models


def make(apps, schema_editor):
    """A portal that has made something already goes on under the tag that its things carry: its name, as it was."""
    here = schema_editor.connection.alias
    used = apps.get_model("workspaces", "Workspace").objects.using(here).exists()
    tag = settings.PORTAL_NAME.lower() if used else str(uuid.uuid4())
    apps.get_model("portal", "Installation").objects.using(here).create(pk=1, tag=tag)


class Migration(migrations.Migration):
    initial = True

    dependencies = [("workspaces", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Installation",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("tag", models.CharField(max_length=80)),
            ],
            options={"constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="one_installation")]},
        ),
        migrations.RunPython(make, migrations.RunPython.noop),
    ]
