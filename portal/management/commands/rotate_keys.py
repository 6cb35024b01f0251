from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from portal.secrets import rotate


class Command(BaseCommand):
    help = "Encrypt every secret anew with the first of PORTAL_ENCRYPTION_KEYS. The others can then be thrown away."

    def handle(self, *args: Any, **options: Any) -> None:
        closed = False
        for rotation in rotate():
            self.stdout.write(f"{rotation.name}: {rotation.renewed} encrypted anew, {rotation.already} were already")
            if rotation.closed:
                closed = True
                rows = ", ".join(str(pk) for pk in rotation.closed)
                self.stdout.write(f"{rotation.name}: no key opens the rows {rows}")
        if closed:
            raise SystemExit(1)
