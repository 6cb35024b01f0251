from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"

    def ready(self) -> None:
        from jobs import plans
        from jobs.models import Run
        from portal.tasks import registry

        registry.add_subject(Run, plans.RUN)
