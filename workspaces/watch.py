"""Looking after cloud configurations: each account is asked from time to time who we are in it, and what we may do."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from django.db.models.functions import Now

from portal.clouds import Account
from portal.errors import Passing, PortalError
from portal.secrets import CannotDecrypt
from portal.tasks import live
from portal.tasks.threads import DATABASE, LEASES, apart
from portal.tasks.watch import SharingWatcher
from workspaces import aws, checks, listings
from workspaces.models import CloudConfig, Listing

logger = logging.getLogger(__name__)


class CheckWatcher(SharingWatcher):
    """Checks the accounts that are due. One that does not answer holds up no other."""

    kind = "check"
    rung_by = (live.WATCH_CHECKS,)

    async def wanted(self) -> set[int]:
        return await LEASES(checks.due)()

    async def look_after(self, pk: int) -> None:
        config = await DATABASE(_row)(pk)
        try:
            account = await DATABASE(_account)(config)
            async with asyncio.timeout(checks.PATIENCE):
                found = await apart(partial(checks.ask, account))
        except TimeoutError:
            found = {"trouble": checks.trouble(Passing(f"The cloud has not answered for {checks.PATIENCE:.0f} s."))}
        except PortalError as error:
            found = {"trouble": checks.trouble(error)}
        except CannotDecrypt as error:
            logger.error("cloud configuration %s: %s", config.uuid, error)
            words = Passing("Its credentials cannot be opened.", advice="Ask whoever runs this portal.")
            found = {"trouble": checks.trouble(words)}
        if aws.awaits(config):
            await DATABASE(aws.tried)(config, found)
        else:
            await DATABASE(checks.write_down)(config, found)


def _account(config: CloudConfig) -> Account:
    """Whose options may name this portal by its row."""
    return aws.awaited_account(config) or config.account


def _row(pk: int) -> CloudConfig:
    return CloudConfig.objects.select_related("organization").get(pk=pk)


class ListingWatcher(SharingWatcher):
    """Has lists of instance types read again before anybody waits for them."""

    kind = "listing"
    rung_by = (live.WATCH_CHECKS,)

    async def wanted(self) -> set[int]:
        return await LEASES(listings.due)()

    async def look_after(self, pk: int) -> None:
        listing, whole = await DATABASE(_listing)(pk)
        try:
            account = await DATABASE(_account)(listing.cloud_config)
            async with asyncio.timeout(listings.PATIENCE):
                found = await apart(partial(listings.ask, account, listing.region, whole=whole))
        except TimeoutError:
            found = {"trouble": checks.trouble(Passing("The cloud has not answered for minutes."))}
        except PortalError as error:
            found = {"trouble": checks.trouble(error)}
        except CannotDecrypt as error:
            logger.error("lists of %s: %s", listing, error)
            words = Passing("Its credentials cannot be opened.", advice="Ask whoever runs this portal.")
            found = {"trouble": checks.trouble(words)}
        await DATABASE(listings.write_down)(listing, found, whole=whole)


def _listing(pk: int) -> tuple[Listing, bool]:
    """Whether all of it is due, and not what counts alone."""
    row = Listing.objects.select_related("cloud_config__organization")
    return row.get(pk=pk), row.filter(pk=pk, due__lte=Now()).exists()
