from django.apps import AppConfig


class TasksConfig(AppConfig):
    name = "portal.tasks"
    label = "tasks"

    def ready(self) -> None:
        from portal.tasks import keeping, registry, watch
        from portal.tasks.models import Task

        registry.add_live(Task)
        registry.add_watchers(watch.TaskWatcher, keeping.OutputWatcher)
