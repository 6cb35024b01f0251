"""API tokens at work: who calls, by the client id and the secret of a request, and within what they may act.

A request says them as HTTP says a name and a password, `Authorization: Basic` with base64 of `client id:secret`, which
every HTTP client can send. A token's use is no sign-in: it does not keep its owner's account from being locked.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from datetime import timedelta
from hmac import compare_digest
from typing import ClassVar
from uuid import UUID, uuid4

from django.db.models import Q
from django.http import HttpRequest
from django.utils.timezone import now

from accounts.access import OrganizationRole, WorkspaceRole
from accounts.audit import address_of, plain_address
from accounts.models import ApiToken, User, digest

NOTED_EVERY = timedelta(minutes=1)  # when it was last used need not be known better
_NO_TOKEN = digest(secrets.token_urlsafe(32))  # what a secret is compared with where there is no such client


@dataclass(frozen=True)
class Acting:
    """A token's owner, as far as the token goes. It stands wherever access asks for a person.

    A workspace's token acts in its workspace alone; an organization's on what belongs to the organization itself.
    """

    token: ApiToken
    is_authenticated: ClassVar[bool] = True

    @property
    def owner(self) -> User:
        """In whose name."""
        return self.token.owner

    @property
    def role(self) -> str:
        """The token's own, or its owner's where that has become the lesser one."""
        token = self.token
        roles = list(WorkspaceRole if token.workspace_id else OrganizationRole)
        owner_role = token.owner_workspace_role if token.workspace_id else token.owner_role
        return max(token.role, owner_role or "", key=[str(role) for role in roles].index)

    @property
    def may_enter(self) -> bool:
        return self.token.dead is None


def authenticate(client_id: str, secret: str, address: str | None = None) -> Acting | None:
    """Nobody for an unknown client, a wrong secret, and a token that does not work any more; all take as long."""
    try:
        uuid = UUID(client_id)
    except ValueError:
        uuid = uuid4()
    token = ApiToken.objects.with_owners().filter(uuid=uuid).first()
    right = compare_digest(digest(secret), token.secret_hash if token else _NO_TOKEN)
    if token is None or not right or token.dead:
        return None
    stale = Q(last_used=None) | Q(last_used__lte=now() - NOTED_EVERY)
    if token.last_used is None or token.last_used <= now() - NOTED_EVERY:
        ApiToken.objects.filter(stale, pk=token.pk).update(last_used=now(), last_address=plain_address(address))
    return Acting(token)


def acting(request: HttpRequest) -> Acting | None:
    """Who calls, by the request's `Authorization`. Nobody where it is missing, or is not understood."""
    scheme, _, said = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(said, validate=True).decode().partition(":")
    except ValueError:
        return None
    return authenticate(client_id, secret, address_of(request)) if colon else None
