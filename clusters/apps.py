from django.apps import AppConfig


class ClustersConfig(AppConfig):
    name = "clusters"

    def ready(self) -> None:
        from clusters import plans
        from clusters.models import Cluster
        from portal.tasks import registry

        registry.add_subject(Cluster, plans.CREATE, plans.REPAIR, plans.DELETE)
