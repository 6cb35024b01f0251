"""People, and the organizations they belong to."""

from __future__ import annotations

import secrets
import uuid
from hashlib import sha256
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, BaseUserManager
from django.db import models
from django.db.models.functions import Lower
from django.utils.timezone import now

from accounts.access import AccessQuerySet, Can, OrganizationRole


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save()
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email__iexact=username)


class User(AbstractUser):
    """A person, known by their e-mail address."""

    username = None  # type: ignore[assignment]
    first_name = None  # type: ignore[assignment]
    last_name = None  # type: ignore[assignment]
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    email = models.EmailField("e-mail address", unique=True)
    name = models.CharField(max_length=120, blank=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[UserManager] = UserManager()  # type: ignore[assignment]

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="one_user_per_address_in_any_case")]

    def __str__(self) -> str:
        return self.name or self.email

    def get_full_name(self) -> str:
        return str(self)

    def get_short_name(self) -> str:
        return self.name.split(" ")[0] if self.name else self.email.split("@")[0]


class OrganizationQuerySet(AccessQuerySet["Organization"]):
    organization_path = ""
    sees = Can.SEE_ORGANIZATION


class Organization(models.Model):
    """A tenant: cloud configurations, workspaces and bills hang off it."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=80)
    created = models.DateTimeField(auto_now_add=True)

    objects = OrganizationQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def live_names(self) -> list[str]:
        return [f"organization.{self.uuid}"]


class Membership(models.Model):
    """A person in an organization. The role `member` gives no right but to see that it exists."""

    organization = models.ForeignKey(Organization, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=OrganizationRole, default=OrganizationRole.MEMBER)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "user"], name="one_membership_per_person"),
            models.CheckConstraint(condition=models.Q(role__in=OrganizationRole.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization}"


class SetupLink(models.Model):
    """The one-time link by which the first administrator sets a password. Only a hash of its token is kept."""

    token_hash = models.CharField(max_length=64, unique=True)
    created = models.DateTimeField(default=now)

    def __str__(self) -> str:
        return f"setup link of {self.created:%Y-%m-%d %H:%M}"

    @classmethod
    def make(cls) -> str:
        """A new token; those of earlier starts stop working."""
        token = secrets.token_urlsafe(32)
        cls.objects.all().delete()
        cls.objects.create(token_hash=sha256(token.encode()).hexdigest())
        return token

    @classmethod
    def is_valid(cls, token: str) -> bool:
        return cls.objects.filter(token_hash=sha256(token.encode()).hexdigest()).exists()

    @classmethod
    def use_up(cls, token: str) -> bool:
        """True for the one call that may use this token."""
        deleted, _ = cls.objects.filter(token_hash=sha256(token.encode()).hexdigest()).delete()
        return bool(deleted)
