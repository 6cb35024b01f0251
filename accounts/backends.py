from __future__ import annotations

from typing import Any

from allauth.account.auth_backends import AuthenticationBackend
from django.db.models import Exists, OuterRef

from accounts.models import Organization, User


class PersonBackend(AuthenticationBackend):  # type: ignore[misc]
    """allauth's, which reads with each request's person whether they owe a second factor: one query, not two."""

    def get_user(self, user_id: Any) -> User | None:
        asking = Organization.objects.filter(memberships__user=OuterRef("pk"), second_factor_required=True)
        return (
            User.objects.annotate(is_asked_for_second_factor=Exists(asking)).filter(pk=user_id, is_active=True).first()
        )
