from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clusters", "0017_roles")]

    operations = [
        migrations.AddField(
            model_name="node",
            name="notice",
            field=models.CharField(blank=True, max_length=200),
        ),
    ]
