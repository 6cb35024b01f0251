from django.apps import AppConfig


class ClustersConfig(AppConfig):
    name = "clusters"

    def ready(self) -> None:
        from accounts import holdings
        from clusters import actions, life, roles, strays, watch
        from clusters.consumers import TerminalConsumer
        from clusters.models import Cluster, InstanceRole
        from portal.tasks import registry
        from workspaces import ending
        from workspaces.models import Stray

        registry.add_subject(Cluster, *life.PLANS)
        registry.add_subject(InstanceRole, *roles.PLANS)
        registry.add_subject(Stray, *strays.PLANS)
        registry.add_watchers(watch.NodeWatcher, watch.RepairWatcher, watch.EnginesWatcher, watch.CloudWatcher)
        registry.add_watchers(
            watch.SpotWatcher, watch.FailedWatcher, watch.TerminalsWatcher, watch.HostfileWatcher, watch.IdleWatcher
        )
        registry.add_socket("terminal/<uuid:uuid>/<int:rank>/", TerminalConsumer.as_asgi())
        holdings.tellers.append(actions.holdings)
        ending.forgetters.append(actions.forget_secrets)
