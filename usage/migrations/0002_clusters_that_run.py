"""What runs already when a portal begins to count is counted from then on."""

from django.db import migrations
from django.utils.timezone import now

from usage.months import month_of


def begin(apps, schema_editor):
    here = schema_editor.connection.alias
    clusters, records = apps.get_model("clusters", "Cluster"), apps.get_model("usage", "Record")
    at = now()
    running = clusters.objects.using(here).filter(status="running")
    for cluster in running.select_related("workspace__organization", "created_by"):
        workspace, person = cluster.workspace, cluster.created_by
        records.objects.using(here).create(
            organization=workspace.organization.uuid, workspace=workspace.uuid, workspace_name=workspace.name,
            cluster=cluster.uuid, cluster_name=cluster.name,
            person=person.uuid if person else None, person_name=person.email if person else "",
            instance_type=cluster.instance_type, cores_per_node=cluster.cores_per_node, node_count=cluster.node_count,
            spot=cluster.spot, hourly_price=cluster.hourly_price, month=month_of(at), began=at,
        )


class Migration(migrations.Migration):

    dependencies = [
        ("usage", "0001_initial"),
        ("clusters", "0008_choices"),
    ]

    operations = [migrations.RunPython(begin, migrations.RunPython.noop)]
