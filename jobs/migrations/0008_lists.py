import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0005_occupied_by'),
        ('jobs', '0007_jobs_are_deleted_runs_need_somebody'),
        ('tasks', '0004_plans_as_data'),
        ('workspaces', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='run',
            name='run_cluster_status',
        ),
        migrations.AlterField(
            model_name='run',
            name='cluster',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='runs', to='clusters.cluster'),
        ),
        migrations.AlterField(
            model_name='run',
            name='job',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='runs', to='jobs.job'),
        ),
        migrations.AlterField(
            model_name='run',
            name='workspace',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='runs', to='workspaces.workspace'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('deleted', None)), fields=['workspace', 'ran', 'id'], name='job_ran_last'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['workspace', 'id'], name='run_of_workspace'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['workspace', 'status', 'id'], name='run_of_workspace_by_status'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['workspace', 'started_by', 'id'], name='run_of_workspace_by_person'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['job', 'id'], name='run_of_job'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['cluster', 'id'], name='run_of_cluster'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(fields=['cluster', 'status', 'id'], name='run_of_cluster_by_status'),
        ),
        migrations.AddIndex(
            model_name='run',
            index=models.Index(condition=models.Q(('needs_you', True)), fields=['workspace', 'id'], name='run_needs_you'),
        ),
    ]
