from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from accounts.audit import verify
from accounts.models import AuditChain


class Command(BaseCommand):
    help = "Compute every chain of audit entries anew. Names the first wrong entry of each; then the exit status is 1."

    def handle(self, *args: Any, **options: Any) -> None:
        wrong = 0
        for chain in AuditChain.objects.order_by("pk"):
            finding = verify(chain)
            if finding:
                wrong += 1
                self.stdout.write(f"{chain}: entry {finding.number} {finding.what}")
            else:
                self.stdout.write(f"{chain}: {chain.length} entries, all as written; the last is {chain.head}")
        if wrong:
            raise SystemExit(1)
