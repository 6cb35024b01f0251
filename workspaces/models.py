"""Where a team works: a cloud configuration's trust, and workspaces with a shared filesystem and a network."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower, Now
from django.urls import reverse

from accounts.access import AccessQuerySet, Can, WorkspaceRole
from accounts.models import Organization, User
from portal import clouds, secrets
from portal.clouds.aws.options import AwsOptions
from portal.clouds.local.options import LocalOptions
from portal.clouds.machines.options import MachinesOptions
from portal.errors import Refused
from portal.models import installation
from portal.states import Badge, State
from portal.tasks import stores
from portal.tasks.causes import Explanation, Way
from portal.tasks.subjects import Subject

_REMEMBERED = 10.0  # seconds that the store of a configuration is not asked for again: many frames are read from it
_ENDS = ("workspaces.delete", "workspaces.forget")  # kinds of tasks that end a workspace
_FOLDERS = {"root": "local", "store": "stores"}  # of settings.VAR, for “This computer”


def aws_options(own: Mapping[str, str] = MappingProxyType({})) -> AwsOptions:
    """Of an account of which `own` is known; the rest is decided for the whole portal."""
    return AwsOptions.of(own, {**settings.AWS, "portal": installation()})


class CloudConfigQuerySet(AccessQuerySet["CloudConfig"]):
    organization_path = "organization"
    sees = Can.MANAGE_ORGANIZATION

    def live(self) -> CloudConfigQuerySet:
        return self.filter(deleted=None)


class CloudConfig(models.Model):
    """A cloud account that an organization has trusted the portal with; or this computer."""

    class Kind(models.TextChoices):
        LOCAL = "local", "This computer"
        MACHINES = "machines", "Own machines"
        AWS = "aws", "AWS"

    FAR: ClassVar[tuple[str, ...]] = (Kind.AWS,)  # which lists take long to get: see `listings`

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    organization = models.ForeignKey(Organization, models.PROTECT, related_name="cloud_configs")
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=10, choices=Kind)
    options = models.JSONField(default=dict, blank=True)  # of its kind, see `connection`; nothing secret
    credentials = secrets.EncryptedField(blank=True, editable=False)  # what its cloud's folder alone reads
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)
    check_due = models.DateTimeField(db_default=Now(), editable=False)  # when its account is asked again, see `checks`
    check_asked = models.DateTimeField(null=True, editable=False)  # somebody waits for that since then
    checked = models.DateTimeField(null=True, editable=False)  # when there was an answer last
    findings = models.JSONField(default=dict, blank=True, editable=False)  # what that was, as `checks.ask` gives it
    # A row stays for the workspaces that were made by it, which are gone too by then.
    deleted = models.DateTimeField(null=True, editable=False)

    objects = CloudConfigQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "organization", Lower("name"), condition=Q(deleted=None), name="live_cloud_config_names_unique"
            )
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("cloud-config", args=[self.uuid])

    def belongs_to(self, field: str) -> str:
        return f"{self.organization.uuid}/cloud-config/{self.uuid}/{field}"

    @property
    def badge(self) -> Badge:
        """What came of the last check of its account; no status of its own."""
        if not self.is_finished:
            return Badge.warning("INCOMPLETE")
        if self.check_asked:
            return Badge.working("CHECKING")
        if not self.checked:
            return Badge.waiting("NEW")
        if self.findings.get("trouble"):
            return Badge.bad("FAILED")
        return Badge.warning("INCOMPLETE") if self.missing_permissions else Badge.good("ACTIVE")

    @property
    def is_finished(self) -> bool:
        """Whether all is known that it takes to ask its account. Of AWS, its role comes later: see `aws`."""
        return self.kind != self.Kind.AWS or bool(self.options.get("role"))

    @property
    def missing_permissions(self) -> list[dict[str, Any]]:
        """Of what the portal needs to be allowed in the account, what it is not."""
        return [one for one in self.findings.get("permissions", []) if one["granted"] is False]

    @property
    def regions(self) -> list[clouds.Region]:
        """As its account gave them last. Asked for now where that has not been; raises `PortalError`."""
        known = self.findings.get("regions")
        return [clouds.Region(**one) for one in known] if known else self.account.regions()

    def live_names(self) -> list[str]:
        return [f"organization.{self.organization.uuid}"]

    @property
    def connection(self) -> clouds.Options:
        """What is decided of it: by the row, and above that by whoever runs the portal."""
        match self.Kind(self.kind):
            case self.Kind.LOCAL:
                places = {name: settings.VAR / folder / str(self.uuid) for name, folder in _FOLDERS.items()}
                return LocalOptions.of({**self.options, **settings.LOCAL_NODES, **places})
            case self.Kind.MACHINES:
                return MachinesOptions(self.uuid)
            case self.Kind.AWS:
                return aws_options(self.options)

    @property
    def region_word(self) -> str:
        """What a region is called there."""
        return "Pool" if self.kind == self.Kind.MACHINES else "Region"

    @cached_property
    def can(self) -> frozenset[clouds.Can]:
        """What its kind of cloud can do. Nobody is asked, and nothing sealed is opened."""
        return clouds.connect(self.connection).can

    @property
    def account(self) -> clouds.Account:
        return clouds.connect(self.connection, secrets.unseal(self, "credentials") if self.credentials else "")

    def cloud(self, region: str) -> clouds.Cloud:
        return self.account.cloud(region)

    def ways_out(self, why: Explanation) -> list[Way]:
        """Of a failure in it: its own page, where that would help."""
        if "config" not in why.buttons:
            return []
        return [Way("Open the cloud configuration", self.get_absolute_url(), "cloud", for_admins=True)]

    @property
    def output_store(self) -> str:
        """For `Output.store`: where what is printed in its workspaces is kept."""
        return str(self.uuid) if clouds.Can.STORE in self.can else stores.OWN


def store_of(name: str) -> clouds.Store:
    """What `CloudConfig.output_store` is the name of. Raises `PortalError`."""
    return _store_of(name, int(time.monotonic() // _REMEMBERED))


@lru_cache(maxsize=256)
def _store_of(name: str, _now: int) -> clouds.Store:
    try:
        return CloudConfig.objects.select_related("organization").get(uuid=name).account.store
    except (CloudConfig.DoesNotExist, ValidationError) as error:
        raise Refused("There is no such cloud configuration.", evidence=name) from error


class WorkspaceQuerySet(AccessQuerySet["Workspace"]):
    workspace_path = ""
    organization_path = "organization"
    sees = Can.SEE_WORKSPACE
    changes = Can.MANAGE_ORGANIZATION

    def live(self) -> WorkspaceQuerySet:
        return self.exclude(status=Workspace.Status.TERMINATED)

    def staying(self) -> WorkspaceQuerySet:
        """Neither deleted nor being deleted."""
        return self.exclude(status__in=(Workspace.Status.TERMINATING, Workspace.Status.TERMINATED))


class Workspace(Subject):
    """A shared filesystem, a network and people, in one region of one cloud configuration."""

    fetched_with = ("organization", "cloud_config")

    class Status(models.TextChoices):
        NEW = "new"
        INPROGRESS = "inprogress"
        READY = "ready"
        FAILED = "failed"
        TERMINATING = "terminating"
        TERMINATED = "terminated"

    STATES: ClassVar[Mapping[str, State]] = {
        Status.NEW: State(Badge.waiting("NEW")),
        Status.INPROGRESS: State(Badge.working("INPROGRESS"), follows={Status.NEW, Status.FAILED}),
        Status.READY: State(Badge.good("READY"), follows={Status.INPROGRESS}),
        Status.FAILED: State(Badge.bad("FAILED"), follows={Status.NEW, Status.INPROGRESS, Status.TERMINATING}),
        Status.TERMINATING: State(Badge.working("TERMINATING"), follows={Status.READY, Status.FAILED}),
        Status.TERMINATED: State(Badge.gone("TERMINATED"), follows={Status.TERMINATING, Status.NEW, Status.INPROGRESS}),
    }

    ENDING: ClassVar[set[str]] = {Status.TERMINATING, Status.TERMINATED}  # nothing is to begin in here any more

    organization = models.ForeignKey(Organization, models.PROTECT, related_name="workspaces")
    cloud_config = models.ForeignKey(CloudConfig, models.PROTECT, related_name="workspaces")
    name = models.CharField(max_length=80)
    region = models.CharField(max_length=40)
    status = models.CharField(max_length=12, choices=Status, default=Status.NEW)
    login_public = models.TextField(blank=True)  # the portal's key for every node in here
    login_private = secrets.EncryptedField(blank=True, editable=False)
    choices = models.JSONField(default=dict, blank=True)  # of its kind of cloud, see `clouds.WorkspaceSpec`
    extra_tags = models.JSONField(default=dict, blank=True)  # on everything in the cloud, beside ours: words and words
    missing_since = models.DateTimeField(null=True, editable=False)  # when its cloud first listed nothing of it
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)

    says = ""  # what goes on with it, where a list has asked

    objects = WorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "organization", Lower("name"), condition=~Q(status="terminated"), name="live_workspace_names_unique"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["new", "inprogress", "ready", "failed", "terminating", "terminated"]),
                name="workspace_status_known",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("workspace", args=[self.uuid])

    @property
    def workspace(self) -> Workspace:
        return self

    @property
    def cloud(self) -> clouds.Cloud:
        return self.cloud_config.cloud(self.region)

    @property
    def can(self) -> frozenset[clouds.Can]:
        return self.cloud_config.can

    @cached_property
    def listing(self) -> Listing | None:
        """What its region lists. None where that was never asked for, or is asked for when somebody wants it."""
        if self.cloud_config.kind not in CloudConfig.FAR:
            return None
        return Listing.objects.filter(cloud_config=self.cloud_config_id, region=self.region).first()

    @property
    def region_word(self) -> str:
        return self.cloud_config.region_word

    @property
    def lock(self) -> tuple[clouds.Store, str] | None:
        return (self.cloud_config.account.store, f"workspaces/{self.uuid}") if clouds.Can.STORE in self.can else None

    def tags(self, subject: UUID | None = None) -> clouds.Tags:
        """For the workspace's own things, or for those of a cluster in it."""
        return clouds.Tags(
            portal=installation(),
            organization=str(self.organization.uuid),
            workspace=str(self.uuid),
            subject=str(subject or self.uuid),
        )

    def ways_out(self, why: Explanation) -> list[Way]:
        return self.cloud_config.ways_out(why)

    @property
    def spec(self) -> clouds.WorkspaceSpec:
        chosen = tuple(sorted((name, str(value)) for name, value in self.choices.items()))
        return clouds.WorkspaceSpec(self.tags(), tuple(sorted(self.extra_tags.items())), chosen)

    def belongs_to(self, field: str) -> str:
        return f"{self.organization.uuid}/workspace/{self.uuid}/{field}"

    @property
    def login_key(self) -> str:
        return secrets.unseal(self, "login_private")

    def keep_login_key(self, private: str, public: str) -> None:
        secrets.seal(self, "login_private", private)
        self.login_public = public
        self.save(update_fields=["login_private", "login_public"])

    def forget_login_key(self) -> None:
        self.login_private = self.login_public = ""
        self.save(update_fields=["login_private", "login_public"])

    @property
    def is_ending(self) -> bool:
        """It is deleted, or was to be: it is never READY again."""
        return self.status in self.ENDING or (self.status == self.Status.FAILED and self.may_be_forgotten)

    @property
    def may_be_forgotten(self) -> bool:
        """Its deletion has failed: what it consists of may be out of reach for ever."""
        last = self.last_task
        return self.status == self.Status.FAILED and last is not None and last.kind in _ENDS

    def live_names(self) -> list[str]:
        return [f"workspace.{self.uuid}", f"organization.{self.organization.uuid}"]


class GitCredentialQuerySet(AccessQuerySet["GitCredential"]):
    workspace_path = "workspace"

    def live(self) -> GitCredentialQuerySet:
        return self.filter(deleted=None)


class GitCredential(models.Model):
    """What jobs of a workspace sign in to one Git server with, chosen by its name and shown to nobody.

    A deleted one is kept, without its secret, for the jobs that still name it; its own name is free again.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    workspace = models.ForeignKey(Workspace, models.PROTECT, related_name="git_credentials")
    name = models.CharField(max_length=80)
    server = models.CharField(max_length=300)  # such as https://git.example.org:8443; it goes to no other
    username = models.CharField(max_length=200)
    secret = secrets.EncryptedField(blank=True, editable=False)  # a password, or an access token
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(auto_now_add=True)
    replaced = models.DateTimeField(null=True)  # when the secret was, last
    deleted = models.DateTimeField(null=True)
    deleted_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")

    objects = GitCredentialQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "workspace", Lower("name"), condition=Q(deleted=None), name="live_git_credential_names_unique"
            )
        ]

    def __str__(self) -> str:
        return self.name

    def belongs_to(self, field: str) -> str:
        """With its server: one that was given another does not open, so that it cannot be sent there."""
        return f"{self.workspace.organization.uuid}/git-credential/{self.uuid}/{self.server}/{field}"

    @property
    def words(self) -> str:
        return f"{self.name}: {self.username} at {self.server}"


class Listing(models.Model):
    """What may be had in a region, as its account said last. See `listings`."""

    cloud_config = models.ForeignKey(CloudConfig, models.CASCADE, related_name="listings")
    region = models.CharField(max_length=40)
    types = models.JSONField(default=list)
    zones = models.JSONField(default=list)
    market = models.JSONField(default=dict)
    running = models.JSONField(default=dict)  # what counts against quotas
    counted = models.DateTimeField(null=True)  # when that was
    count_due = models.DateTimeField(db_default=Now())  # when it is asked for again
    read = models.DateTimeField(null=True)  # when there was an answer last
    trouble = models.JSONField(default=dict)  # why there was none since
    due = models.DateTimeField(db_default=Now())  # when it is asked for again

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cloud_config", "region"], name="one_listing_of_a_region")]

    def __str__(self) -> str:
        return f"{self.cloud_config}, {self.region}"


class StrayQuerySet(AccessQuerySet["Stray"]):
    organization_path = "cloud_config__organization"
    sees = Can.MANAGE_ORGANIZATION
    changes = Can.MANAGE_ORGANIZATION

    def there(self) -> StrayQuerySet:
        return self.filter(ended=None).order_by("first_seen", "pk")


class Stray(Subject):
    """What a cloud holds in this portal's name though no row of the portal accounts for it; it may cost money.

    As the reconciler saw it last. Kept after its end, for staff to read.
    """

    PATIENCE: ClassVar[timedelta] = timedelta(minutes=2)  # for what is only on its way; then it is ended
    fetched_with = ("cloud_config__organization",)

    class Status(models.TextChoices):
        THERE = "there"
        ENDING = "ending"  # a person has asked for that; what the portal ends by itself stays THERE until it is gone
        FAILED = "failed"
        GONE = "gone"

    STATES: ClassVar[Mapping[str, State]] = {
        Status.THERE: State(Badge.warning("LEFT BEHIND"), follows={Status.ENDING}),
        Status.ENDING: State(Badge.working("ENDING"), follows={Status.THERE, Status.FAILED}),
        Status.FAILED: State(Badge.bad("FAILED"), follows={Status.ENDING}),
        Status.GONE: State(Badge.gone("GONE"), follows={Status.THERE, Status.ENDING, Status.FAILED}),
    }

    cloud_config = models.ForeignKey(CloudConfig, models.CASCADE, related_name="strays")
    region = models.CharField(max_length=40)
    organization_tag = models.CharField(max_length=80)  # this and the following: the tags that it carries
    workspace_tag = models.CharField(max_length=80)
    subject = models.CharField(max_length=80)
    name = models.CharField(max_length=200)  # of the subject, in words
    things = models.JSONField(default=list)  # of the cloud, in words
    status = models.CharField(max_length=8, choices=Status, default=Status.THERE)
    first_seen = models.DateTimeField(db_default=Now())
    last_seen = models.DateTimeField(db_default=Now())
    ended = models.DateTimeField(null=True)  # when the cloud was asked and nothing of it was left
    is_kept = models.BooleanField(default=False)  # the portal does not end it by itself
    trouble = models.TextField(blank=True)  # why it was not ended

    objects = StrayQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["cloud_config", "region", "subject"], condition=Q(ended=None), name="one_stray_of_a_subject"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["there", "ending", "failed", "gone"]), name="stray_status_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("stray", args=[self.uuid])

    def crumbs(self) -> list[tuple[str, str]]:
        config = self.cloud_config
        here = (f"{self.kind} left behind", self.get_absolute_url())
        return [("Cloud configurations", reverse("cloud-configs")), (config.name, config.get_absolute_url()), here]

    @property
    def workspace(self) -> None:
        """It is in none that the portal knows: people of the organization look after it."""

    @property
    def is_workspace(self) -> bool:
        """Whether it is what a workspace consists of, or else the nodes of a cluster."""
        return self.subject == self.workspace_tag

    @property
    def kind(self) -> str:
        return "Workspace" if self.is_workspace else "Cluster"

    @property
    def cloud(self) -> clouds.Cloud:
        return self.cloud_config.cloud(self.region)

    @property
    def can(self) -> frozenset[clouds.Can]:
        return self.cloud_config.can

    @property
    def tags(self) -> clouds.Tags:
        return clouds.Tags(installation(), self.organization_tag, self.workspace_tag, self.subject)

    def ways_out(self, why: Explanation) -> list[Way]:
        return self.cloud_config.ways_out(why)

    @property
    def outlook(self) -> str:
        """What becomes of it, as a sentence."""
        if self.ended:
            return "Nothing of it is there any more."
        if self.is_kept:
            return (
                "It may hold people's data, or be another portal's: the portal leaves it alone. "
                "Destroy it if nobody needs it."
            )
        if self.trouble:
            return f"It could not be ended, and that is tried again every minute. {self.trouble}"
        return "The portal ends it, unless it goes by itself within minutes."

    def live_names(self) -> list[str]:
        return [f"stray.{self.uuid}", *self.cloud_config.live_names()]


class WorkspaceMember(models.Model):
    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="members")
    user = models.ForeignKey(User, models.CASCADE, related_name="workspace_memberships")
    role = models.CharField(max_length=10, choices=WorkspaceRole)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace", "user"], name="one_role_per_person_and_workspace"),
            models.CheckConstraint(condition=Q(role__in=WorkspaceRole.values), name="workspace_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user}, {self.role} of {self.workspace}"
