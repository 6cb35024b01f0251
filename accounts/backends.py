from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from allauth.account.auth_backends import AuthenticationBackend
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.db.models import Exists, OuterRef, QuerySet

from accounts.models import Organization, User
from portal.prepared import prepared

_at_hand: ContextVar[dict[str, User] | None] = ContextVar("people_at_hand", default=None)


class PersonBackend(AuthenticationBackend):  # type: ignore[misc]
    """allauth's, which reads with each request's person whether they owe a second factor: one query, not two."""

    def get_user(self, user_id: Any) -> User | None:
        at_hand = _at_hand.get()
        return at_hand.get(str(user_id)) if at_hand is not None else next(iter(_people([user_id])), None)

    @contextmanager
    def reading_together(self, sessions: Iterable[SessionBase]) -> Iterator[None]:
        """Meanwhile `get_user` knows the people of these sessions, which are read with one query, and nobody else."""
        people = _people(list({int(session[SESSION_KEY]) for session in sessions if SESSION_KEY in session}))
        token = _at_hand.set({str(user.pk): user for user in people})
        try:
            yield
        finally:
            _at_hand.reset(token)


@prepared
def _people(ids: list[int]) -> QuerySet[User]:
    asking = Organization.objects.filter(memberships__user=OuterRef("pk"), second_factor_required=True)
    people: QuerySet[Any] = User.objects.annotate(is_asked_for_second_factor=Exists(asking))
    return people.filter(pk__in=ids, is_active=True)
