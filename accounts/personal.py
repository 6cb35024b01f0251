"""All that is kept about a person, for the person."""

from __future__ import annotations

from typing import Any

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession

from accounts.models import AuditEvent, User

_PLAIN = (
    "uuid", "email", "name", "date_joined", "last_login", "unlocked_at", "time_zone", "theme", "notify_dormancy",
    "notify_membership", "notify_idleness", "notify_runs",
)  # fmt: skip


def everything_about(user: User) -> dict[str, Any]:
    """Ready for JSON. Secrets are named, never given."""
    return {
        "person": {name: getattr(user, name) for name in _PLAIN},
        "addresses": list(EmailAddress.objects.filter(user=user).values("email", "verified", "primary")),
        "organizations": list(user.memberships.values("organization__name", "organization__uuid", "role", "created")),
        "workspaces": list(user.workspace_memberships.values("workspace__name", "workspace__uuid", "role", "created")),
        "api_tokens": list(
            user.api_tokens.values("uuid", "name", "role", "created", "expires", "revoked", "last_used", "last_address")
        ),
        "second_factors": list(Authenticator.objects.filter(user=user).values("type", "created_at", "last_used_at")),
        "single_sign_on": list(SocialAccount.objects.filter(user=user).values("provider", "uid", "extra_data")),
        "sessions": list(
            UserSession.objects.filter(user=user).values("ip", "user_agent", "created_at", "last_seen_at")
        ),
        "done": list(
            AuditEvent.objects.filter(actor=user.uuid)
            .order_by("pk")
            .values("at", "verb", "kind", "subject", "subject_name", "address", "how")
        ),
    }
