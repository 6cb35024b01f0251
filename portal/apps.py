import sys

from django.apps import AppConfig

SWITCH_SECONDS = 0.0005


class PortalConfig(AppConfig):
    name = "portal"

    def ready(self) -> None:
        from portal import checks, voice  # noqa: F401  (checks registers itself)

        voice.speak()

        # A thread that computes (a page, a query) gives way to the event loop ten times sooner than Python has it:
        # a doorbell of five names otherwise takes as long as a query beside it.
        sys.setswitchinterval(SWITCH_SECONDS)
