from __future__ import annotations

import sys
from typing import Any

from django.core.checks import Tags
from django.core.management import BaseCommand, CommandParser
from django.utils.module_loading import import_string

from portal.supervisor import CannotStart, Supervisor


class Command(BaseCommand):
    help = "Start everything on this machine: queue, web, workers, watch. Ctrl-C stops it."
    # Said once, here: the processes that are started would each say it, again and again.
    requires_system_checks = [Tags.security]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, help="the port on 127.0.0.1; default: 8000 or the next free one")
        parser.add_argument("--workers", type=int, default=2)

    def handle(self, *args: Any, **options: Any) -> None:
        def say(sentence: str) -> None:
            self.stdout.write(sentence)
            self.stdout.flush()

        def ready(url: str) -> None:
            say(f"Ready: {url}")
            if link := import_string("accounts.actions.first_link")(url):
                say(f"Nobody can sign in yet. Make the first administrator here, once:\n  {link}")
            say("Ctrl-C stops it.")

        try:
            Supervisor(port=options["port"], workers=max(2, options["workers"]), say=say).run(on_ready=ready)
        except CannotStart as error:
            self.stderr.write(str(error))
            sys.exit(1)
