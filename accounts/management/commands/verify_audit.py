from __future__ import annotations

from typing import Any

from django.core.management import BaseCommand, CommandError

from accounts import audit
from accounts.models import AuditChain


class Command(BaseCommand):
    help = "Read the audit of every organization anew, and say where it is not what was written."

    def handle(self, *args: Any, **options: Any) -> None:
        damages = list(audit.verify())
        for damage in damages:
            self.stderr.write(f"{damage.chain}: entry {damage.number} {damage.what}.")
        if damages:
            raise CommandError(f"{len(damages)} of {AuditChain.objects.count()} chains are damaged.")
        chains = AuditChain.objects.all()
        self.stdout.write(f"{sum(chain.length for chain in chains)} entries in {len(chains)} chains, all as written.")
