"""People, organizations, invitations, API tokens and the audit, for staff."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from accounts.actions import revoke_token, unlock_user, withdraw_invitation
from accounts.models import ApiToken, AuditEvent, Invitation, Membership, Organization, User, UserQuerySet
from portal.admin import MOST_AT_ONCE, ReadOnlyInline, StaffAdmin, list_link, list_links, minute, shown, site
from portal.states import Badge


class UnlockForm(forms.Form):
    reason = forms.CharField(
        label="Why?",
        max_length=300,
        help_text="It is kept in the audit, for whoever asks later.",
        widget=forms.TextInput({"class": "vTextField"}),
    )


class LockFilter(admin.SimpleListFilter):
    title = "lock"
    parameter_name = "lock"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("locked", "Locked"), ("open", "Not locked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        assert isinstance(queryset, UserQuerySet)
        match self.value():
            case "locked":
                return queryset.locked()
            case "open":
                return queryset.exclude(pk__in=queryset.locked().values("pk"))
        return queryset


class MembershipInline(ReadOnlyInline):
    model = Membership
    fields = ("organization", "role", "created")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        return super().get_queryset(request).select_related("organization", "user")


@admin.register(User, site=site)
class UserAdmin(StaffAdmin):
    list_display = ("email", "name", "state", "rights", "seen")
    list_filter = (
        LockFilter,
        "is_active",
        "is_staff",
        "is_superuser",
        ("last_login", admin.DateFieldListFilter),
        ("date_joined", admin.DateFieldListFilter),
    )
    search_fields = ("email", "name")
    search_help_text = "The beginning of an address or of a name."
    sortable_by = ("email", "seen")
    fields = (
        "email", "name", "is_active", "is_staff", "is_superuser", "lock", "last_login", "unlocked_at", "warned_days",
        "date_joined", "time_zone", "uuid", "workspaces", "tokens",
    )  # fmt: skip
    changeable = ("name", "is_active", "is_staff", "is_superuser")
    inlines = (MembershipInline,)
    actions = ("unlock",)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        """Superusers alone make staff; and nobody takes away their own rights, so that one is always left."""
        assert isinstance(request.user, User)
        fixed = super().get_readonly_fields(request, obj)
        if not request.user.is_superuser:
            fixed += ["is_staff", "is_superuser"]
        if obj == request.user:
            fixed += ["is_active", "is_staff", "is_superuser"]
        return fixed

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        assert not request.user.is_anonymous
        mine = obj is None or request.user.is_superuser or not (obj.is_staff or obj.is_superuser)
        return mine and super().has_change_permission(request, obj)

    @admin.display(description="lock")
    def lock(self, user: User) -> str:
        return f"Locked: quiet since {user.quiet_since:%Y-%m-%d}" if user.is_locked else "Not locked"

    @admin.display(description="state")
    def state(self, user: Any) -> SafeString:
        badge, _ = user.sign_in_state(user.read_at)
        return shown(badge or Badge.good("OPEN"))

    @admin.display(description="rights")
    def rights(self, user: User) -> str:
        return "superuser" if user.is_superuser else "staff" if user.is_staff else ""

    @admin.display(description="last login", ordering="last_login")
    def seen(self, user: User) -> str:
        return minute(user.last_login)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[User], search_term: str
    ) -> tuple[QuerySet[User], bool]:
        assert isinstance(queryset, UserQuerySet)
        return queryset.beginning(search_term.strip()), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """With the database's clock, which otherwise each row of a list would ask for."""
        found: QuerySet[User] = super().get_queryset(request).annotate(read_at=Now())
        return found

    @admin.display(description="workspaces")
    def workspaces(self, user: User) -> SafeString:
        return list_link("Roles in workspaces", "workspaces.workspacemember", user__id=user.pk)

    @admin.display(description="API tokens")
    def tokens(self, user: User) -> SafeString:
        return list_link("API tokens", "accounts.apitoken", owner__id=user.pk)

    @admin.action(description="Unlock…")
    def unlock(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse:
        """Asks why, then unlocks."""
        people = list(queryset.order_by("email")[: MOST_AT_ONCE + 1])
        if len(people) > MOST_AT_ONCE:
            messages.error(request, f"Nobody was unlocked: choose at most {MOST_AT_ONCE} at once.")
            return redirect("admin:accounts_user_changelist")
        assert isinstance(request.user, User)
        form = UnlockForm(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            for one in people:
                unlock_user(one, by=request.user, reason=form.cleaned_data["reason"])
            messages.success(request, f"Unlocked: {', '.join(one.email for one in people)}.")
            return redirect("admin:accounts_user_changelist")
        context = {**site.each_context(request), "title": "Unlock", "form": form, "people": people, "opts": self.opts}
        return TemplateResponse(request, "admin/accounts/user/unlock.html", context)


@admin.register(Organization, site=site)
class OrganizationAdmin(StaffAdmin):
    list_display = ("name", "second_factor_required", "created")
    list_filter = ("second_factor_required", ("created", admin.DateFieldListFilter))
    search_fields = ("name__istartswith",)
    search_help_text = "The beginning of its name."
    fields = ("name", "second_factor_required", "created", "uuid", "belongings")
    changeable = ("name", "second_factor_required")

    @admin.display(description="in it")
    def belongings(self, organization: Organization) -> SafeString:
        lists = {
            "People": "accounts.membership", "Invitations": "accounts.invitation", "API tokens": "accounts.apitoken",
            "Workspaces": "workspaces.workspace", "Cloud configurations": "workspaces.cloudconfig",
        }  # fmt: skip
        return list_links(lists, organization__id=organization.pk)


@admin.register(Membership, site=site)
class MembershipAdmin(StaffAdmin):
    list_display = ("user", "organization", "role", "created")
    list_select_related = ("user", "organization")
    list_filter = ("role",)
    search_fields = ("user__email__startswith", "organization__name__istartswith")
    search_help_text = "The beginning of an address or of an organization's name."
    narrows = ("user__id__exact", "organization__id__exact")
    fields = ("user", "organization", "role", "created")


class InvitationState(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("pending", "Waiting"), ("accepted", "Accepted"), ("withdrawn", "Withdrawn")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> QuerySet[Invitation]:
        match self.value():
            case "pending":
                return queryset.filter(accepted=None, withdrawn=None)
            case "accepted" | "withdrawn" as state:
                return queryset.exclude(**{state: None})
        return queryset


@admin.register(Invitation, site=site)
class InvitationAdmin(StaffAdmin):
    list_display = ("email", "organization", "workspace", "invited_by", "state", "until")
    list_select_related = ("organization", "workspace", "invited_by")
    list_filter = (InvitationState,)
    search_fields = ("email__startswith",)
    search_help_text = "The beginning of an address."
    narrows = ("organization__id__exact", "workspace__id__exact")
    fields = (
        "email", "organization", "organization_role", "workspace", "workspace_role", "invited_by", "created",
        "expires", "accepted", "accepted_by", "withdrawn", "uuid",
    )  # fmt: skip
    actions = ("withdraw",)

    @admin.display(description="state")
    def state(self, invitation: Invitation) -> SafeString:
        if invitation.accepted:
            return shown(Badge.good("ACCEPTED"))
        if invitation.withdrawn:
            return shown(Badge.gone("WITHDRAWN"))
        return shown(Badge.gone("EXPIRED") if invitation.has_expired else Badge.waiting("WAITING"))

    @admin.display(description="expires", ordering="expires")
    def until(self, invitation: Invitation) -> str:
        return minute(invitation.expires)

    @admin.action(description="Withdraw")
    def withdraw(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> None:
        assert isinstance(request.user, User)
        by = request.user
        self.do_to_each(request, queryset, lambda one: withdraw_invitation(one, by=by), "Withdrawn")


@admin.register(ApiToken, site=site)
class ApiTokenAdmin(StaffAdmin):
    list_display = ("name", "owner", "organization", "workspace", "role", "expires", "last_used", "revoked")
    list_select_related = ("owner", "organization", "workspace")
    list_filter = (("revoked", admin.EmptyFieldListFilter),)
    search_fields = ("name__istartswith", "owner__email__startswith")
    search_help_text = "The beginning of its name or of its owner's address, or the client id."
    narrows = ("owner__id__exact", "organization__id__exact", "workspace__id__exact")
    fields = (
        "name", "uuid", "owner", "organization", "workspace", "role", "created", "expires", "revoked", "last_used",
        "last_address",
    )  # fmt: skip
    actions = ("revoke",)

    @admin.action(description="Revoke")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        assert isinstance(request.user, User)
        by = request.user
        self.do_to_each(request, queryset, lambda one: revoke_token(one, by=by), "Revoked")


class OfOrganization(admin.SimpleListFilter):
    """What was done to the installation itself has no organization; that of one is reached from its page."""

    title = "audit of"
    parameter_name = "of"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("installation", "The installation"), ("organizations", "Organizations")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        if self.value() is None:
            return queryset
        return queryset.filter(chain__organization__isnull=self.value() == "installation")


@admin.register(AuditEvent, site=site)
class AuditEventAdmin(StaffAdmin):
    """To read. Not even superusers change or remove an entry."""

    list_display = ("moment", "actor_shown", "verb", "kind", "subject_name", "address", "how")
    list_filter = (("at", admin.DateFieldListFilter), OfOrganization)
    search_fields = ("actor_name", "verb", "request_id")
    search_help_text = "An address as it is written, a verb (“unlocked”), or the id of a request, from the logs."
    narrows = ("chain__organization__exact", "subject__exact", "kind__exact", "subject_name__exact")
    fields = (
        "moment", "actor_name", "actor", "how", "verb", "kind", "subject_name", "subject", "organization", "workspace",
        "before", "after", "address", "request_id", "number", "previous", "hash",
    )  # fmt: skip

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEvent], search_term: str
    ) -> tuple[QuerySet[AuditEvent], bool]:
        """By those fields alone in which it is: an index that answers for one has the newest first, for three none."""
        term, found = search_term.strip(), Q()
        if not term:
            return queryset, False
        for name in self.search_fields:
            matches = Q(**{str(name): term})
            if queryset.filter(matches).exists():
                found |= matches
        return queryset.filter(found) if found else queryset.none(), False

    @admin.display(description="at", ordering="at")
    def moment(self, event: AuditEvent) -> str:
        at: datetime = event.at
        return f"{at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="who")
    def actor_shown(self, event: AuditEvent) -> str:
        return event.actor_name or "the portal itself"

    @admin.display(description="organization")
    def organization(self, event: AuditEvent) -> str:
        return str(event.chain.organization or "the installation")
