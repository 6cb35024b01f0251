from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clusters", "0004_node_door")]

    operations = [migrations.AddField("cluster", "occupied_by", models.UUIDField(editable=False, null=True))]
