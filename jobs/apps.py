from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"

    def ready(self) -> None:
        from accounts import holdings
        from jobs import actions, folders, mail, plans, schedules, watch
        from jobs.models import Run
        from portal.tasks import registry
        from workspaces import ending

        registry.add_subject(Run, plans.RUN)
        registry.add_watchers(watch.DispatchWatcher, watch.RunWatcher, watch.LeftoverWatcher, folders.FolderWatcher)
        registry.add_watchers(schedules.ScheduleWatcher, mail.MailWatcher)
        holdings.tellers.append(actions.holdings)
        ending.forgetters.insert(0, actions.forget_secrets)  # jobs are locked before their workspace
