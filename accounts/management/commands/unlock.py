from __future__ import annotations

from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from accounts import audit
from accounts.actions import make_administrator, unlock_user
from accounts.models import User


class Command(BaseCommand):
    help = (
        "Unlock an account that has not signed in for too long. With --administrator it also becomes active and an "
        "administrator of this installation: the way back when its last administrator is gone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--reason", default="from the command line", help="for the audit log")
        parser.add_argument("--administrator", action="store_true", help="also active, and an administrator")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(email__iexact=options["email"].strip()).first()
        if user is None:
            raise CommandError(f"There is no account with the address {options['email']}.")
        with audit.atomic():
            unlock_user(user, by=None, reason=options["reason"])
            if options["administrator"]:
                make_administrator(user)
        self.stdout.write(f"{user.email} is unlocked.")
        if not user.is_active:
            self.stdout.write("But the account is not active: --administrator makes it so.")
        elif (
            not User.objects.filter(is_superuser=True, is_active=True)
            .exclude(pk__in=User.objects.get_queryset().locked())
            .exists()
        ):
            self.stdout.write(
                "Nobody can administer this installation: --administrator makes this account one who can."
            )
