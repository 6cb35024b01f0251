"""Parts. What an earlier version has kept stays readable where it is, and is moved to parts by the watch process."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


def have_all_kept(apps, schema_editor):
    outputs = apps.get_model("tasks", "Output").objects.using(schema_editor.connection.alias)
    outputs.filter(head__gt=0).update(keep_at=django.db.models.functions.datetime.Now())


class Migration(migrations.Migration):

    dependencies = [
        ('tasks', '0004_plans_as_data'),
    ]

    operations = [
        migrations.CreateModel(
            name='Part',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('file', models.CharField(max_length=200)),
                ('position', models.BigIntegerField()),
                ('size', models.BigIntegerField(default=0)),
                ('line', models.BigIntegerField(default=0)),
                ('directory', models.BinaryField(default=b'')),
                ('begun', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'ordering': ['position'],
            },
        ),
        migrations.AddField(
            model_name='output',
            name='cut',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='output',
            name='digested',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='output',
            name='expected',
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name='output',
            name='keep_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='output',
            name='keep_tries',
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='output',
            name='kept',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='output',
            name='loose',
            field=models.IntegerField(default=0),
        ),
        migrations.AddField(
            model_name='output',
            name='store',
            field=models.CharField(default='outputs', max_length=40),
        ),
        migrations.AddIndex(
            model_name='output',
            index=models.Index(condition=models.Q(('keep_at__isnull', False)), fields=['keep_at'], name='output_to_keep'),
        ),
        migrations.AddField(
            model_name='part',
            name='output',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='parts', to='tasks.output'),
        ),
        migrations.AddIndex(
            model_name='part',
            index=models.Index(condition=models.Q(('size__lte', 0)), fields=['begun'], name='part_not_written'),
        ),
        migrations.AddConstraint(
            model_name='part',
            constraint=models.UniqueConstraint(condition=models.Q(('size__gt', 0)), fields=('output', 'position'), name='one_part_at_a_position'),
        ),
        migrations.RunPython(have_all_kept, migrations.RunPython.noop),
    ]
