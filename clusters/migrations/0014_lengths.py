from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0013_told_of'),
    ]

    operations = [
        migrations.AlterField(
            model_name='node',
            name='address',
            field=models.CharField(blank=True, max_length=253),
        ),
        migrations.AlterField(
            model_name='node',
            name='home',
            field=models.CharField(blank=True, max_length=400),
        ),
        migrations.AlterField(
            model_name='node',
            name='private_address',
            field=models.CharField(blank=True, max_length=253),
        ),
        migrations.AlterField(
            model_name='node',
            name='shared',
            field=models.CharField(default='/shared', max_length=400),
        ),
    ]
