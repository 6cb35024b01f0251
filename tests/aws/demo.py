"""`python -m tests.aws.demo [--exit]`: the demo in an account of an emulated AWS. `make demo-aws` calls it.

It shows what the tests prove, with what they prove it: so it lies beside them, and needs the packages of the tests.
All of it, the portal's data too, lies in one folder that is removed at the end, and in processes that end with this
one.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import django
from django.core.management import call_command

from tests.aws.box import CUSTOMER, REGION, Box, why_not


def main() -> None:
    if why := why_not():
        sys.exit(
            f"AWS cannot be emulated with nodes behind it here: {why}.\n"
            "`sudo make demo-aws` runs as root; `make demo` shows the same on this computer's own nodes, without."
        )
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="coxswain-demo-aws-"))
    try:
        print("AWS is emulated here, by moto, which is one of the packages that the tests need.", flush=True)
        with Box(hidden=[folder]) as box:
            print(f"It answers at {box.endpoint}, and its instances are real nodes in {box.net}.", flush=True)
            run(box, folder)
    except KeyboardInterrupt:
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(box: Box, folder: Path) -> None:
    """Ends the process, with the outcome as its status."""
    os.environ |= {**box.settings, "PORTAL_VAR": str(folder / "var"), "DJANGO_SETTINGS_MODULE": "portal.settings"}
    os.environ.pop("DATABASE_URL", None)
    os.environ.pop("REDIS_URL", None)
    django.setup()

    from accounts.models import Organization, User
    from jobs.management.commands import demo
    from portal.errors import PortalError
    from workspaces import aws
    from workspaces.actions import create_cloud_config
    from workspaces.models import CloudConfig

    class Command(demo.Command):
        choices = MappingProxyType({"range": box.net})

        def configuration(self, organization: Organization, user: User) -> CloudConfig:
            """By an access key of the account's owner, as its page does."""
            self.say(f"\nConnect account {CUSTOMER}")
            config = create_cloud_config(
                organization,
                name="AWS, emulated",
                kind=CloudConfig.Kind.AWS,
                options={"draft": {"account": CUSTOMER, "region": REGION}},
                credentials=str(uuid4()),
                by=user,
            )
            iam = box.client("iam")
            iam.create_user(UserName="owner")
            key = iam.create_access_key(UserName="owner")["AccessKey"]
            aws.make_with_key(config, key=key["AccessKeyId"], secret=key["SecretAccessKey"], token="", by=user)
            self.say("  Role, policies, bucket and table are made; the portal tries the role")
            while not config.is_finished:
                self.wait()
                config.refresh_from_db()
            if config.badge.word != "ACTIVE":
                raise PortalError(f"The configuration is {config.badge.word}.", evidence=str(config.findings))
            self.say(f"  {config.name} is {config.badge.word}")
            return config

    call_command(Command(), *sys.argv[1:])


if __name__ == "__main__":
    main()
