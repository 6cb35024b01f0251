"""How a cloud configuration of AWS is begun and finished: what is filled in for its account's owner, and what is found.

Its credentials are its external id: made when it is begun, the only one that it ever has, and of no other. While its
role is not known, its options have a `draft` (the account and the region that somebody has named) and, once a role of
the known name is to be there soon, what is `awaited`: then the watch process tries that one, and finishes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils.timezone import now

from accounts import audit
from accounts.models import User
from portal import clouds, secrets
from portal.clouds.aws import policy
from portal.clouds.aws.setup import Setup, name_of
from portal.errors import Conflict, PortalError, Refused
from portal.models import installation
from portal.tasks import live
from workspaces import checks
from workspaces.models import CloudConfig, aws_options

OPTIONS = ("role", "bucket", "table", "region")
SOON, LATER = timedelta(seconds=10), timedelta(minutes=5)  # between two tries of an awaited role …
PATIENCE = timedelta(minutes=30)  # … before and after so long


def external_id(config: CloudConfig) -> str:
    return secrets.unseal(config, "credentials")


def principal() -> str:
    """Whom roles trust. Raises `PortalError` where the portal has no credentials of its own."""
    if settings.AWS["principal"]:
        return str(settings.AWS["principal"])
    from portal.clouds.aws import permissions  # with the SDK

    return permissions.principal(aws_options())


def setup(config: CloudConfig, given: Mapping[str, str] | None = None) -> Setup:
    """What its account's owner is to make, or has made. Raises `PortalError`. `given`: options as typed."""
    options = aws_options({**config.options, **(given or {})})
    draft = config.options.get("draft", {})
    name = name_of(config.uuid)
    return Setup(
        account=options.account or draft.get("account", ""),
        region=options.region or draft.get("region", ""),
        principal=principal(),
        portal=installation(),
        role=options.role.partition(":role/")[2] or name,
        bucket=options.bucket or name,
        table=options.table or name,
        external_id=external_id(config),
    )


def derived(config: CloudConfig) -> dict[str, str]:
    """The options that it has once everything of `setup` is there."""
    wanted = setup(config)
    return {"role": wanted.role_arn, "bucket": wanted.bucket, "table": wanted.table, "region": wanted.region}


def validate(config: CloudConfig, options: Mapping[str, str]) -> dict[str, Any]:
    """As `checks.ask`, with these options instead of its own. Nothing is written."""
    return checks.ask(_account(config, options))


def is_valid(found: Mapping[str, Any]) -> bool:
    return "trouble" not in found and all(one["granted"] is not False for one in found["permissions"])


@audit.atomic()
def finish(config: CloudConfig, options: Mapping[str, str], found: dict[str, Any], *, by: User | None) -> None:
    """It has these options from now on, of which this was found. Raises `Conflict` where it has others already."""
    row = CloudConfig.objects.select_for_update(of=("self",), no_key=True).live().filter(pk=config.pk).first()
    if row is None:
        raise Conflict(f"The cloud configuration {config} was deleted.")
    chosen = {name: options[name] for name in OPTIONS}
    if row.is_finished:
        if {name: row.options[name] for name in OPTIONS} != chosen:
            raise Conflict(f"{config} was finished meanwhile, with another role or store.")
        return
    row.options = chosen
    row.save(update_fields=["options"])
    config.options = row.options
    audit.record("finished", row, organization=config.organization, by=by, after=chosen)
    checks.write_down(config, found)


@audit.atomic()
def wait_for(config: CloudConfig, *, by: User) -> None:
    """The role of the known name is to be there soon: the watch process finishes the configuration then."""
    row = CloudConfig.objects.select_for_update(of=("self",), no_key=True).live().filter(pk=config.pk).first()
    if row is None:
        raise Conflict(f"The cloud configuration {config} was deleted.")
    if row.is_finished:
        return
    row.options = {**row.options, "awaited": {**derived(config), "since": now().isoformat()}}
    row.save(update_fields=["options"])
    config.options = row.options
    audit.record(
        "changed", row, organization=config.organization, by=by, after={"waits for the role": name_of(row.uuid)}
    )
    checks.renew(row.uuid)
    live.ring(live.WATCH_CHECKS, *config.live_names())


def awaits(config: CloudConfig) -> bool:
    return not config.is_finished and "awaited" in config.options


def awaited_account(config: CloudConfig) -> clouds.Account | None:
    return _account(config, config.options["awaited"]) if awaits(config) else None


def tried(config: CloudConfig, found: dict[str, Any]) -> None:
    """What an awaited role has answered: it finishes the configuration where everything is there."""
    if is_valid(found):
        finish(config, config.options["awaited"], found, by=None)
        return
    since = datetime.fromisoformat(config.options["awaited"]["since"])
    checks.write_down(config, found, SOON if now() - since < PATIENCE else LATER)


def make_with_key(config: CloudConfig, *, key: str, secret: str, token: str, by: User) -> None:
    """Everything in the account, and wait for AWS to know it. The key is kept nowhere. Raises `PortalError`."""
    if config.is_finished:
        raise Conflict(f"{config} is finished already.")
    from portal.clouds.aws import keyed  # with the SDK

    wanted = setup(config)
    try:
        keyed.make(wanted, aws_options(), key=key, secret=secret, token=token)
    except PortalError as error:
        evidence = secrets.redact(error.evidence, [key, secret, token, wanted.external_id])
        raise Refused(error.message, evidence=evidence, advice=error.advice, code=error.code) from None
    wait_for(config, by=by)


def _account(config: CloudConfig, options: Mapping[str, str]) -> clouds.Account:
    return clouds.connect(aws_options(options), external_id(config))


def shown(config: CloudConfig, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, as the configuration's own page may show it: with its external id where that is to be pasted."""
    mine = external_id(config)
    permissions = [
        {**one, "statement": one["statement"].replace(policy.EXTERNAL_ID, mine)} for one in found.get("permissions", [])
    ]
    return {**found, "permissions": permissions}
