from __future__ import annotations

import uuid
from typing import Any

from django.core.management import BaseCommand

from portal.models import Installation


class Command(BaseCommand):
    help = (
        "Make this a portal of its own, before it is started for the first time from a copy of another one's database."
        " It then finds, and ends, nothing that the other one has made in clouds that both may use."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        Installation.objects.update_or_create(pk=1, defaults={"tag": str(uuid.uuid4())})
        self.stdout.write("From now on this is another portal. Start its processes again.")
