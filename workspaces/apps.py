from django.apps import AppConfig


class WorkspacesConfig(AppConfig):
    name = "workspaces"

    def ready(self) -> None:
        from accounts import holdings
        from portal.tasks import registry
        from workspaces import actions, ending, place, plans, poolwatch, watch
        from workspaces.models import Workspace, store_of

        registry.add_subject(Workspace, plans.CREATE, plans.UPDATE, plans.DELETE, plans.FORGET)
        registry.add_watchers(
            watch.CheckWatcher, watch.ListingWatcher, poolwatch.PoolCheckWatcher, poolwatch.ComputerWatcher
        )
        registry.tell(enter=place.enter_subject, record=actions.record_task, store=store_of)
        holdings.tellers.append(actions.holdings)
        holdings.closers.append(actions.close)
        ending.forgetters.append(ending.forget_own)
