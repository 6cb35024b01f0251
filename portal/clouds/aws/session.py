"""Who the portal is in an account, and its clients there: kept, and shared by threads."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

from portal.clouds.aws.brake import Brake
from portal.clouds.aws.options import AwsOptions
from portal.errors import Refused

SECONDS = 3600  # that a session of the role lasts; it is renewed before that
NAME = "coxswain"  # of the session, as the account's own log shows it

# One attempt: a lost reply that the SDK tries again makes two of a thing. The ledger finds before it makes.
_ONCE: dict[str, Any] = {
    "retries": {"total_max_attempts": 1},
    "connect_timeout": 5,
    "read_timeout": 25,
    "max_pool_connections": 20,
    "user_agent_appid": "coxswain",
}


class Session:
    """What asks AWS in an account's name. Nothing is asked before the first call of a client."""

    def __init__(self, options: AwsOptions, external_id: str = "") -> None:
        self.options, self._external_id = options, external_id
        self._clients: dict[tuple[str, str], Any] = {}
        self._brake = Brake()
        self._lock = Lock()  # making a client is not for several threads at once, using one is
        self._assumed: boto3.Session | None = None

    def client(self, service: str, region: str) -> Any:
        """Of the role in the account. Raises `Refused` where none is known yet."""
        with self._lock:
            found = self._clients.get((service, region))
            if found is None:
                found = self._clients[service, region] = _client(self._session(), service, region, self.options)
                self._brake.watch(found)
            return found

    def _session(self) -> boto3.Session:
        if self._assumed is None:
            if not self.options.account:
                raise Refused(
                    "This cloud configuration does not know its role in AWS yet.",
                    advice="Finish it on its page.",
                    code="not_finished",
                )
            self._assumed = assumed(self.options, self._external_id)
        return self._assumed


def assumed(options: AwsOptions, external_id: str) -> boto3.Session:
    """A session of the role, which renews itself. Without an external id where that is empty, which nobody should be
    able to do: see `permissions`.
    """
    more = {"ExternalId": external_id} if external_id else {}
    fetcher = AssumeRoleCredentialFetcher(
        lambda service, **keys: _client(boto3.Session(**keys), service, options.region or "us-east-1", options),
        portal_session().get_credentials(),
        options.role,
        extra_args={"RoleSessionName": NAME, "DurationSeconds": SECONDS, **more},
        expiry_window_seconds=300,
    )
    inner = botocore.session.get_session()
    # The one way to have credentials renew themselves; boto3 has no door for it.
    inner._credentials = DeferredRefreshableCredentials(refresh_using=fetcher.fetch_credentials, method="assume-role")
    return boto3.Session(botocore_session=inner)


@lru_cache(maxsize=1)
def portal_session() -> boto3.Session:
    """Of the portal itself, by boto3's usual chain: the environment, a file, the computer's own role."""
    return boto3.Session()


def portal_client(service: str, region: str, options: AwsOptions) -> Any:
    """In the portal's own name, for what comes before any trust."""
    return _client(portal_session(), service, region, options)


def keyed_client(service: str, region: str, options: AwsOptions, *, key: str, secret: str, token: str = "") -> Any:
    """In the name of whoever has this access key. Nothing of it is kept."""
    session = boto3.Session(key, secret, token or None)
    return _client(session, service, region, options)


def _client(session: boto3.Session, service: str, region: str, options: AwsOptions) -> Any:
    config = dict(_ONCE)
    if options.endpoint:
        config["s3"] = {"addressing_style": "path"}  # an emulator has no name for each bucket
    return session.client(service, region_name=region, endpoint_url=options.endpoint or None, config=Config(**config))
