from __future__ import annotations

from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from clusters import reconcile, strays
from portal.errors import PortalError
from portal.models import installation
from portal.tasks.models import Task
from workspaces.models import CloudConfig, Stray


class Command(BaseCommand):
    help = (
        "Compare what each cloud holds in this portal's name with the rows of the portal, both ways, and print what"
        " differs. Nothing is changed unless --destroy or --adopt names it. What does not carry this portal's tag is"
        " never listed, and so never touched."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--config", metavar="UUID", help="Only this cloud configuration.")
        parser.add_argument(
            "--destroy", metavar="ID", action="append", default=[], help="What is only in the cloud goes, as a task."
        )
        parser.add_argument(
            "--adopt", metavar="ID", action="append", default=[], help="It becomes a cluster of the portal again."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configs = CloudConfig.objects.filter(workspaces__isnull=False).order_by("pk").distinct()
        if options["config"]:
            configs = configs.filter(uuid=options["config"])
        silent = 0
        asked = {*options["destroy"], *options["adopt"]}
        for config in configs:
            for place in reconcile.places(config.pk):
                try:
                    self._look(place, asked)
                except PortalError as error:
                    silent += 1
                    self.stderr.write(f"{config}, {place.region}: {error.message} {error.evidence}".rstrip())
        for do, names in ((strays.destroy, options["destroy"]), (strays.adopt, options["adopt"])):
            for name in names:
                self._do(do, name)
        if silent:
            raise CommandError("Not every cloud has answered.")

    def _look(self, place: reconcile.Place, asked: set[str]) -> None:
        found = place.cloud.owners(installation())
        listed = reconcile.differences(place, found)
        self.stdout.write(f"{place.config} ({place.config.uuid}), {place.region}: {len(found)} in the cloud")
        if not listed:
            self.stdout.write("  nothing differs")
        for one in listed:
            side = "only in the cloud " if one.is_in_cloud else "only in the portal"
            self.stdout.write(f"  {side}  {one.subject}  {one.name}. {one.outlook}")
        if asked & {one.subject for one in listed if one.is_in_cloud}:
            reconcile.compare(place, found)

    def _do(self, do: Any, name: str) -> None:
        stray = Stray.objects.there().filter(subject=name).select_related("cloud_config__organization").first()
        if stray is None:
            raise CommandError(f"{name} is not only in a cloud. Nothing was done with it.")
        try:
            task: Task = do(stray, by=None)
        except PortalError as error:
            raise CommandError(f"{stray}: {error.message}") from error
        self.stdout.write(f"{task.title}: task {task.uuid} is for the workers.")
