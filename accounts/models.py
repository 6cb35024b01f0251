"""People, the organizations they belong to, how they are invited, what acts in their name, and what was done."""

from __future__ import annotations

import secrets
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, ClassVar, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings
from django.contrib.auth.models import AbstractUser, BaseUserManager
from django.contrib.sessions.backends.base import SessionBase
from django.db import connection, models
from django.db.models import Exists, F, FilteredRelation, Q, Subquery, Value
from django.db.models.functions import Coalesce, Concat, Left, Lower, Now, Upper
from django.utils.timezone import now

from accounts.access import AccessQuerySet, Can, OrganizationRole, WorkspaceRole
from portal.states import Badge

LAST = "\U0010ffff"  # comes after every other character


def database_now() -> datetime:
    """The database's clock, in UTC: one for all processes, so that a lock falls at the same second for everybody.

    As it is now, and not when a transaction began that has waited since.
    """
    sqlite = "SELECT STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f+00:00', 'now')"
    sql = sqlite if connection.vendor == "sqlite" else "SELECT clock_timestamp()"
    with connection.cursor() as cursor:
        cursor.execute(sql.replace("%%", "%"))
        (found,) = cursor.fetchone()
    return datetime.fromisoformat(found) if isinstance(found, str) else found


def is_over(session: SessionBase) -> bool:
    """Every session ends some time after its first page, however busy."""
    began: int = session.get("began", 0)
    return bool(began) and now().timestamp() - began > settings.SESSION_LONGEST


def digest(token: str) -> str:
    """What is kept of a token. Plain SHA-256 is enough for 256 random bits; nobody can guess through it."""
    return sha256(token.encode()).hexdigest()


def quiet_for(days: int, at: datetime, *, of: str = "") -> Q:
    """Who has not signed in for more than so many days, by `at` of the database's clock. See `User.quiet_since`.

    `of`: the way to the person, such as "user__". Each time is asked for by itself, because a database would compute
    the latest of the three for all people there are, indexed or not.
    """
    moment = at - timedelta(days=days)
    signed_in = Q(**{f"{of}last_login": None}) | Q(**{f"{of}last_login__lt": moment})
    unlocked = Q(**{f"{of}unlocked_at": None}) | Q(**{f"{of}unlocked_at__lt": moment})
    return signed_in & unlocked & Q(**{f"{of}date_joined__lt": moment})


def locked(at: datetime, *, of: str = "") -> Q:
    return quiet_for(settings.LOCK_AFTER_DAYS, at, of=of)


def going_dormant(at: datetime, *, of: str = "") -> Q:
    """Who will be locked soon: past the first warning, and not locked yet."""
    lock = at - timedelta(days=settings.LOCK_AFTER_DAYS)
    times = (f"{of}last_login", f"{of}unlocked_at", f"{of}date_joined")
    since_then = Q(*(Q(**{f"{time}__gte": lock}) for time in times), _connector=Q.OR)
    return quiet_for(settings.WARN_AFTER_DAYS[0], at, of=of) & since_then


class UserQuerySet(models.QuerySet["User"]):
    def dormant_for(self, days: int) -> UserQuerySet:
        return self.filter(quiet_for(days, database_now()))

    def locked(self) -> UserQuerySet:
        return self.filter(locked(database_now()))

    def beginning(self, text: str) -> UserQuerySet:
        """Whose address or name begins so, in whatever case; or who has exactly this uuid."""
        found = _begins("email", text.lower())
        if connection.vendor == "sqlite":  # which has no index for LIKE
            name = Upper(Value(text))
            found |= Q(name_in_capitals__gte=name, name_in_capitals__lt=Concat(name, Value(LAST)))
        else:
            found |= Q(name__istartswith=text)
        with suppress(ValueError):
            found |= Q(uuid=uuid.UUID(text))
        return self.alias(name_in_capitals=Upper("name")).filter(found) if text else self


class UserManager(BaseUserManager["User"]):
    def get_queryset(self) -> UserQuerySet:
        return UserQuerySet(self.model, using=self._db)

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save()
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email__iexact=username)


class Theme(models.TextChoices):
    AUTO = "auto", "As the system"
    LIGHT = "light"
    DARK = "dark"


class User(AbstractUser):
    """A person, known by their e-mail address."""

    username = None  # type: ignore[assignment]
    first_name = None  # type: ignore[assignment]
    last_name = None  # type: ignore[assignment]
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    email = models.EmailField("e-mail address", unique=True)
    name = models.CharField(max_length=120, blank=True)
    unlocked_at = models.DateTimeField(null=True, blank=True, editable=False)  # starts the 90 days anew
    warned_days = models.PositiveSmallIntegerField(default=0, editable=False)  # of not signing in, at the last mail
    time_zone = models.CharField(max_length=60, default="UTC")
    theme = models.CharField(max_length=5, choices=Theme, default=Theme.AUTO)
    notify_dormancy = models.BooleanField("before my account is locked", default=True)
    notify_membership = models.BooleanField("when my roles change", default=True)
    notify_idleness = models.BooleanField("before a timer pauses or deletes a cluster of mine", default=True)
    notify_runs = models.BooleanField("about runs of my jobs", default=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[UserManager] = UserManager()  # type: ignore[assignment]

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="one_user_per_address_in_any_case")]
        indexes = [
            # With all that makes an account a locked one, so that they are counted without reading the people.
            models.Index(fields=["date_joined", "last_login", "unlocked_at"], name="user_by_joining"),
            models.Index(fields=["last_login"], name="user_by_sign_in"),
            # A word from the middle of either is looked for in all of them: in this, and not in the table.
            models.Index(fields=["email", "name"], name="user_by_words"),
            models.Index(Upper("name"), name="user_by_name"),
        ]

    def __str__(self) -> str:
        return self.name or self.email

    @property
    def quiet_since(self) -> datetime:
        """Since when the days without signing in are counted: the last sign-in, unlocking or, before both, joining."""
        return max(at for at in (self.last_login, self.unlocked_at, self.date_joined) if at)

    @property
    def is_locked(self) -> bool:
        """No sign-in for more than LOCK_AFTER_DAYS. The database's clock decides; it is asked only near the day."""
        limit = timedelta(days=settings.LOCK_AFTER_DAYS)
        if now() - self.quiet_since < limit - timedelta(days=1):
            return False
        return self.is_locked_at(database_now())

    def is_locked_at(self, at: datetime) -> bool:
        return at - self.quiet_since > timedelta(days=settings.LOCK_AFTER_DAYS)

    def sign_in_state(self, at: datetime) -> tuple[Badge | None, int]:
        """LOCKED, GOING DORMANT, OFF or nothing, and in how many days it locks, by `at` of the database's clock."""
        quiet = at - self.quiet_since
        left = (timedelta(days=settings.LOCK_AFTER_DAYS) - quiet).days
        if self.is_locked_at(at):
            return Badge("LOCKED", "st-bad", "bi-lock-fill"), 0
        if quiet > timedelta(days=settings.WARN_AFTER_DAYS[0]):
            return Badge("GOING DORMANT", "st-warn", "bi-exclamation-triangle-fill"), left
        return (None if self.is_active else Badge.gone("OFF")), 0

    @property
    def may_enter(self) -> bool:
        """Whether anything may be done in this person's name now."""
        return self.is_active and not self.is_locked

    @property
    def zone(self) -> ZoneInfo:
        """Where the person's clock is; UTC when this machine does not know the place."""
        try:
            return ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            return ZoneInfo("UTC")

    @property
    def owes_second_factor(self) -> bool:
        """`PersonBackend` reads with the person whether there is anything to ask for."""
        return getattr(self, "is_asked_for_second_factor", True) and self.second_factor_owed_to().exists()

    def may_stay(self, session: SessionBase) -> bool:
        """Whether what is open in this session may go on. `PersonMiddleware` tells people why not."""
        return self.may_enter and not is_over(session) and not self.owes_second_factor

    def second_factor_owed_to(self) -> models.QuerySet[Organization]:
        """The organizations that ask their people for a second factor, as long as this one has none."""
        own = User.objects.filter(pk=self.pk, authenticator__type__in=["totp", "webauthn"])
        return Organization.objects.filter(~Exists(own), memberships__user=self, second_factor_required=True)

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
    second_factor_required = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)
    deleted = models.DateTimeField(null=True, editable=False)  # the row stays for its audit and its history

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
        indexes = [models.Index(fields=["organization", "role"], name="membership_by_role")]

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
        cls.objects.create(token_hash=digest(token))
        return token

    @classmethod
    def is_valid(cls, token: str) -> bool:
        return cls.objects.filter(token_hash=digest(token)).exists()

    @classmethod
    def use_up(cls, token: str) -> bool:
        """True for the one call that may use this token."""
        deleted, _ = cls.objects.filter(token_hash=digest(token)).delete()
        return bool(deleted)


class InvitationQuerySet(AccessQuerySet["Invitation"]):
    organization_path = "organization"
    workspace_path = "workspace"
    sees = Can.INVITE
    changes = Can.INVITE

    def pending(self) -> InvitationQuerySet:
        """Neither used nor withdrawn. Those that have expired are here too: they can be sent again."""
        return self.filter(accepted=None, withdrawn=None)


class Invitation(models.Model):
    """Somebody is asked into an organization, perhaps into a workspace of it. Only a hash of the token is kept."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    organization = models.ForeignKey(Organization, models.CASCADE, related_name="invitations")
    organization_role = models.CharField(max_length=10, choices=OrganizationRole, default=OrganizationRole.MEMBER)
    workspace = models.ForeignKey(
        "workspaces.Workspace", models.CASCADE, null=True, blank=True, related_name="invitations"
    )
    workspace_role = models.CharField(max_length=10, choices=WorkspaceRole, blank=True)
    email = models.EmailField("e-mail address")  # in lower case
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    invited_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(default=now, editable=False)
    expires = models.DateTimeField()
    accepted = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")
    withdrawn = models.DateTimeField(null=True, blank=True)

    objects = InvitationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "email"],
                condition=Q(accepted=None, withdrawn=None, workspace=None),
                name="one_pending_invitation_to_an_organization",
            ),
            models.UniqueConstraint(
                fields=["workspace", "email"],
                condition=Q(accepted=None, withdrawn=None),
                name="one_pending_invitation_to_a_workspace",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.email} to {self.workspace or self.organization}"

    @property
    def has_expired(self) -> bool:
        return self.expires <= now()


class ApiTokenQuerySet(AccessQuerySet["ApiToken"]):
    organization_path = "organization"
    workspace_path = "workspace"
    sees = Can.MANAGE_TOKENS
    changes = Can.MANAGE_TOKENS

    def with_owners(self) -> ApiTokenQuerySet:
        """Each with its owner, their roles and the database's clock now: what `ApiToken.dead` asks for."""
        memberships, members = "organization__memberships", "workspace__members"
        facts: dict[str, Any] = {
            "owner_role": F("membership__role"),
            "owner_workspace_role": F("member__role"),
            "read_at": Now(),
        }
        return (
            self.select_related("owner", "organization", "workspace__organization")
            .alias(
                membership=FilteredRelation(memberships, condition=Q(**{f"{memberships}__user": F("owner")})),
                member=FilteredRelation(members, condition=Q(**{f"{members}__user": F("owner")})),
            )
            .annotate(**facts)
        )


class ApiToken(models.Model):
    """A program's way in: the client id is `uuid`, the secret is shown once, and only its hash is kept.

    It acts with at most its own role, and never with more than its owner may do now.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=80)
    organization = models.ForeignKey(Organization, models.CASCADE, related_name="api_tokens")
    workspace = models.ForeignKey(
        "workspaces.Workspace", models.CASCADE, null=True, blank=True, related_name="api_tokens"
    )
    role = models.CharField(max_length=10)  # a WorkspaceRole, or for the whole organization an OrganizationRole
    owner = models.ForeignKey(User, models.CASCADE, related_name="api_tokens")
    secret_hash = models.CharField(max_length=64, editable=False)
    created = models.DateTimeField(default=now, editable=False)
    expires = models.DateTimeField(null=True, blank=True)
    revoked = models.DateTimeField(null=True, blank=True)
    last_used = models.DateTimeField(null=True, blank=True, editable=False)
    last_address = models.GenericIPAddressField(null=True, blank=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()
    # What the owner may do now; from `with_owners`.
    owner_role: str | None
    owner_workspace_role: str | None
    read_at: datetime

    class Meta:
        verbose_name = "API token"

    def __str__(self) -> str:
        return self.name

    @property
    def place(self) -> str:
        """In what it acts: "workspace", or "organization" for what belongs to the organization itself."""
        return "workspace" if self.workspace_id else "organization"

    @property
    def dead(self) -> Badge | None:
        """Why it does not work, or nothing while it does."""
        if self.revoked:
            return Badge.gone("REVOKED")
        if self.expires and self.expires <= now():
            return Badge.gone("EXPIRED")
        if self.workspace and self.workspace.status in self.workspace.ENDING:
            return Badge.gone("WORKSPACE DELETED")
        if not self.owner_role or (self.workspace and not self.owner_workspace_role):
            return Badge("OWNER LEFT", "st-warn", "bi-person-dash-fill")
        if not self.owner.is_active or self.owner.is_locked_at(self.read_at):
            return Badge("OWNER LOCKED", "st-warn", "bi-lock-fill")
        return None

    @property
    def badge(self) -> Badge:
        return self.dead or Badge.good("ACTIVE")


class AuditChain(models.Model):
    """The end of the chain of audit entries of one organization; without one, of the installation itself."""

    organization = models.UUIDField(null=True, unique=True)  # no foreign key: entries outlive what they tell of
    length = models.BigIntegerField(default=0)
    head = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = [  # to `unique`, no null equals another
            models.UniqueConstraint(
                Coalesce("organization", Value(uuid.UUID(int=0), models.UUIDField())),
                name="one_chain_of_the_installation",
            )
        ]

    def __str__(self) -> str:
        return f"audit of {self.organization or 'the installation'}"


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    """Entries are appended by `accounts.audit.record`; every way to change them is refused.

    What is read of them is read through an index, from the newest on: there may be millions.
    """

    LITTLE = 500

    def about(self, text: str) -> AuditEventQuerySet:
        """By a person or an object whose name begins so, or with exactly this uuid or request id."""
        names, exactly = ("actor_name", "subject_name"), Q(request_id=text)
        with suppress(ValueError):
            exactly |= Q(actor=uuid.UUID(text)) | Q(subject=uuid.UUID(text))
        # What there is little of is found through its indexes, and what there is much of by reading from the newest on.
        # A database guesses which of them it is, and guesses wrong.
        indexed = exactly | _begins(names[0], text) | _begins(names[1], text)
        little = list(self.filter(indexed).order_by().values_list("pk", flat=True)[: self.LITTLE + 1])
        if len(little) <= self.LITTLE:
            return self.filter(pk__in=little)
        beginnings = {f"{name}_begins": Left(name, len(text)) for name in names}  # in no index
        read = exactly | Q(actor_name_begins=text) | Q(subject_name_begins=text)
        much: AuditEventQuerySet = self.alias(**beginnings).filter(read)
        return much

    def between(self, start: datetime, end: datetime) -> AuditEventQuerySet:
        """Of one chain, from the first entry that is not before `start` to the first that is not before `end`.

        By their numbers, which every index ends in; times follow the numbers, or a clock was set back.
        """
        first, last = (
            Subquery(self.filter(at__gte=at).order_by("at", "number").values("number")[:1]) for at in (start, end)
        )
        return self.filter(number__gte=first, number__lt=Coalesce(last, Value(2**63 - 1)))

    def verbs(self, chain: AuditChain) -> list[str]:
        """The verbs of a chain, each found by one look into the index."""
        sql = """
            WITH RECURSIVE found (verb) AS (
                SELECT MIN(verb) FROM accounts_auditevent WHERE chain_id = %s
                UNION ALL
                SELECT (SELECT MIN(verb) FROM accounts_auditevent WHERE chain_id = %s AND verb > found.verb)
                FROM found WHERE found.verb IS NOT NULL
            ) SELECT verb FROM found WHERE verb IS NOT NULL
        """
        with connection.cursor() as cursor:
            cursor.execute(sql, [chain.pk, chain.pk])
            return [verb for (verb,) in cursor.fetchall()]

    def update(self, **fields: Any) -> NoReturn:
        raise TypeError("Audit entries are never changed.")

    def delete(self) -> NoReturn:
        raise TypeError("Audit entries are never deleted.")

    def bulk_create(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Audit entries are appended by accounts.audit.")

    def append(self, events: list[AuditEvent]) -> None:
        """For `accounts.audit`, which knows their numbers and hashes."""
        super().bulk_create(events, batch_size=500)


def _begins(field: str, text: str) -> Q:
    """In words that an index answers: SQLite has none for LIKE, and PostgreSQL's order of texts is a language's."""
    if connection.vendor == "sqlite":
        return Q(**{f"{field}__gte": text, f"{field}__lt": f"{text}{LAST}"})
    return Q(**{f"{field}__startswith": text})


class AuditEvent(models.Model):
    """What somebody did. Appended by `accounts.audit.record`, never changed: each entry holds the hash of the last."""

    chain = models.ForeignKey(AuditChain, models.PROTECT, related_name="events")
    number = models.BigIntegerField()  # its place in the chain, from 1
    at = models.DateTimeField()
    actor = models.UUIDField(null=True)
    actor_name = models.CharField(max_length=254, blank=True)  # the address as it was; empty: the portal itself
    how = models.CharField(max_length=120, blank=True)  # e.g. "password", "passkey", "API token ci"
    verb = models.CharField(max_length=40)
    kind = models.CharField(max_length=40)  # of what it was done to
    subject = models.UUIDField(null=True)
    subject_name = models.CharField(max_length=254)
    workspace = models.UUIDField(null=True)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    address = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)
    previous = models.CharField(max_length=64, blank=True)
    hash = models.CharField(max_length=64)

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        verbose_name = "audit entry"
        verbose_name_plural = "audit entries"
        constraints = [models.UniqueConstraint(fields=["chain", "number"], name="audit_numbers_unique")]
        indexes = [
            models.Index(fields=["chain", "workspace", "number"], name="audit_by_workspace"),
            models.Index(fields=["chain", "actor", "number"], name="audit_by_actor"),
            models.Index(fields=["chain", "verb", "number"], name="audit_by_verb"),
            models.Index(fields=["chain", "at"], name="audit_by_time"),
            models.Index(fields=["request_id"], name="audit_by_request"),
            # Across all organizations, for staff.
            models.Index(fields=["at"], name="audit_all_by_time"),
            models.Index(fields=["actor_name"], name="audit_all_by_actor"),
            models.Index(fields=["verb"], name="audit_all_by_verb"),
            models.Index(fields=["subject"], name="audit_all_by_subject"),
            models.Index(fields=["chain", "subject", "number"], name="audit_by_subject"),
            # For "begins with", which PostgreSQL finds in an index of this class alone.
            models.Index(
                fields=["chain", "actor_name"], opclasses=["int8_ops", "varchar_pattern_ops"], name="audit_by_who"
            ),
            models.Index(
                fields=["chain", "subject_name"], opclasses=["int8_ops", "varchar_pattern_ops"], name="audit_by_what"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name or 'the portal'} {self.verb} {self.kind} {self.subject_name}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("Audit entries are never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Audit entries are never deleted.")
