from django.db import migrations


def offer(apps, schema_editor):
    apps.get_model("clusters", "EngineVersion").objects.using(schema_editor.connection.alias).create(
        kind="mpi", version="5.0.2", packages=["mpich==5.0.2", "mpi4py==4.1.2", "numpy==2.3.5"], offered=True
    )


def withdraw(apps, schema_editor):
    apps.get_model("clusters", "EngineVersion").objects.using(schema_editor.connection.alias).filter(kind="mpi", version="5.0.2").delete()


class Migration(migrations.Migration):
    """Plain MPI: MPICH 5.0.2 with mpi4py and numpy, all three with wheels for Python 3.11 to 3.13."""

    dependencies = [("clusters", "0001_initial")]
    operations = [migrations.RunPython(offer, withdraw)]
