from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, ClassVar
from uuid import UUID, uuid4
from zoneinfo import available_timezones

from allauth.account import forms as allauth_forms
from allauth.account.adapter import get_adapter
from allauth.mfa.adapter import get_adapter as get_mfa_adapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.totp.forms import ActivateTOTPForm
from django import forms
from django.contrib.auth.password_validation import validate_password
from django.core.cache import cache

from accounts.access import OrganizationRole, WorkspaceRole
from accounts.addresses import check_address
from accounts.models import Organization, Theme, User
from portal.forms import plain_line


class BrowserZone(forms.CharField):
    """The time zone that the browser says it is in, which `portal.js` fills in: UTC where it says none that we know."""

    widget = forms.HiddenInput(attrs={"data-zone": ""})

    def __init__(self) -> None:
        super().__init__(required=False)

    def clean(self, value: Any) -> str:
        zone = str(value or "")
        return zone if zone in available_timezones() else "UTC"


class FirstAdministratorForm(forms.Form):
    organization = forms.CharField(
        max_length=80, validators=[plain_line], help_text="Your team or company; it can be renamed later."
    )
    name = forms.CharField(
        max_length=120,
        validators=[plain_line],
        label="Your name",
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )
    email = forms.EmailField(label="E-mail address", widget=forms.EmailInput(attrs={"autocomplete": "email"}))
    password = forms.CharField(
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        strip=False,
        help_text="At least 12 characters. A few unrelated words are good.",
    )
    again = forms.CharField(
        label="Password again", widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}), strip=False
    )
    time_zone = BrowserZone()

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"].strip().lower()
        check_address(email)
        if User.objects.filter(email=email).exists():
            raise forms.ValidationError("There is an account with this address.")
        return email

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("password") and data.get("again") and data["password"] != data["again"]:
            self.add_error("again", "The two passwords differ.")
        if data.get("password"):
            try:
                validate_password(data["password"], User(email=data.get("email", ""), name=data.get("name", "")))
            except forms.ValidationError as error:
                self.add_error("password", error)
        return data


class ConfirmDeleteForm(forms.Form):
    """What is destroyed is confirmed by its name."""

    name = forms.CharField(widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}))

    def __init__(self, *args: Any, expected: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.expected = expected
        self.fields["name"].label = f"Type {expected} to confirm"

    def clean_name(self) -> str:
        if self.cleaned_data["name"].strip() != self.expected:
            raise forms.ValidationError(f"That is not {self.expected}.")
        return self.expected


class OrganizationForm(forms.Form):
    name = forms.CharField(
        max_length=80, validators=[plain_line], label="Organization name", help_text="Your team or company."
    )


class OrganizationSettingsForm(OrganizationForm):
    second_factor_required = forms.BooleanField(
        required=False,
        label="Ask everybody for a second factor",
        help_text="Whoever has none gets no further than setting one up, from their next click on.",
    )


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=200, label="Reason", help_text="It is kept in the audit, e.g. “back from parental leave”."
    )


class OrganizationRoleForm(forms.Form):
    role = forms.ChoiceField(
        choices=OrganizationRole.choices,
        label="Role in the organization",
        help_text="An admin manages people, workspaces and cloud configurations. A member has no right by that.",
    )


class WorkspaceRoleForm(forms.Form):
    role = forms.ChoiceField(
        choices=[
            (WorkspaceRole.VIEWER, "Viewer: sees everything, changes nothing"),
            (WorkspaceRole.USER, "User: also runs jobs"),
            (WorkspaceRole.ADMIN, "Admin: also makes and deletes clusters, and invites people"),
        ],
        initial=WorkspaceRole.USER,
        label="Role there",
    )


class Addresses(forms.CharField):
    """E-mail addresses, one a line or with commas between them; in lower case, each once."""

    MOST = 50
    widget = forms.Textarea

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            label="E-mail addresses",
            help_text="One a line.",
            widget=forms.Textarea(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
            **kwargs,
        )

    def clean(self, value: str) -> list[str]:
        text: str = super().clean(value)
        found = list(dict.fromkeys(text.replace(",", " ").replace(";", " ").lower().split()))
        if len(found) > self.MOST:
            raise forms.ValidationError(f"At most {self.MOST} addresses at once, these are {len(found)}.")
        bad: list[str] = []
        for email in found:
            try:
                check_address(email)
            except forms.ValidationError as error:
                bad += error.messages
        if bad:
            raise forms.ValidationError(f"{' '.join(bad)} Nobody was invited yet.")
        return found


class InviteToWorkspaceForm(WorkspaceRoleForm):
    emails = Addresses()
    field_order = ("emails", "role")


class InviteForm(WorkspaceRoleForm):
    """Into an organization, and perhaps into one of its workspaces with a role there."""

    emails = Addresses()
    organization_role = forms.ChoiceField(
        choices=[(OrganizationRole.MEMBER, "Member: no right by itself"), (OrganizationRole.ADMIN, "Admin")],
        label="Role in the organization",
    )
    workspace = forms.ChoiceField(required=False)
    field_order = ("emails", "organization_role", "workspace", "role")

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workspaces = {str(one.uuid): one for one in organization.workspaces.staying().order_by("name")}
        field: Any = self.fields["workspace"]
        field.choices = [("", "none yet"), *((key, one.name) for key, one in self.workspaces.items())]
        self.fields["role"].required = False
        self.fields["role"].help_text = "Counts where a workspace is chosen."

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        data["workspace"] = self.workspaces.get(data.get("workspace", ""))
        if data["workspace"] and not data.get("role") and "role" not in self.errors:
            self.add_error("role", "Choose a role in the workspace.")
        return data


class JoinForm(forms.Form):
    """An account for an address that an invitation has proved."""

    name = forms.CharField(
        max_length=120,
        validators=[plain_line],
        label="Your name",
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )
    password = forms.CharField(
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        strip=False,
        help_text="At least 12 characters. A few unrelated words are good.",
    )
    time_zone = BrowserZone()

    def __init__(self, *args: Any, email: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.email = email

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("password"):
            try:
                validate_password(data["password"], User(email=self.email, name=data.get("name", "")))
            except forms.ValidationError as error:
                self.add_error("password", error)
        return data


class ProfileForm(forms.Form):
    name = forms.CharField(
        max_length=120, validators=[plain_line], widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    time_zone = forms.ChoiceField(
        choices=lambda: [(name, name.replace("_", " ")) for name in sorted(available_timezones())],
        help_text="Times on pages are written in this zone, with its name.",
    )
    theme = forms.ChoiceField(choices=Theme)
    notify_dormancy = forms.BooleanField(required=False, label="Mail me before my account is locked")
    notify_membership = forms.BooleanField(required=False, label="Mail me when my roles change")
    notify_idleness = forms.BooleanField(
        required=False, label="Mail me before a timer pauses or deletes a cluster that I made or may change"
    )
    notify_runs = forms.BooleanField(
        required=False, label="Mail me about runs of my jobs", help_text="Of which, each job's page says."
    )


class DeleteAccountForm(forms.Form):
    """Asks for the password; of those who have none, for their address."""

    password = forms.CharField(
        label="Your password", strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "current-password"})
    )
    email = forms.EmailField(label="Your e-mail address", widget=forms.EmailInput(attrs={"autocomplete": "off"}))

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        del self.fields["email" if user.has_usable_password() else "password"]

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if not get_adapter().reauthenticate(self.user, password):
            raise forms.ValidationError("This is not your password.")
        return password

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"]
        if email.lower() != self.user.email:
            raise forms.ValidationError("This is not your address.")
        return email


class _CodeOnce:
    """A code lets in once. It can be typed for a minute and a half (MFA_TOTP_TOLERANCE), and allauth remembers it for
    half a minute, and not the one that set the app up."""

    user: User

    def clean_code(self) -> str:
        code: str = super().clean_code()  # type: ignore[misc]
        used = f"used-code:{self.user.pk}:{sha256(code.replace(' ', '').encode()).hexdigest()}"
        if not cache.add(used, True, 120):
            raise get_mfa_adapter().validation_error("incorrect_code")
        return code


class ActivateCodeForm(_CodeOnce, ActivateTOTPForm):  # type: ignore[misc]
    pass


class CodeForm(_CodeOnce, AuthenticateForm):  # type: ignore[misc]
    pass


class CodeAgainForm(_CodeOnce, ReauthenticateForm):  # type: ignore[misc]
    pass


class AuditFilterForm(forms.Form):
    """Which entries of the audit are shown. All of it may be left out."""

    q = forms.CharField(
        label="Person, object or request id",
        required=False,
        max_length=254,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Person, object or request id"}),
    )
    verb = forms.ChoiceField(label="Action", required=False)
    workspace = forms.ChoiceField(label="Workspace", required=False)
    day = forms.DateField(label="Day", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    before = forms.IntegerField(label="Before", required=False, min_value=1, max_value=2**62, widget=forms.HiddenInput)

    def __init__(self, *args: Any, organization: Organization, verbs: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        workspaces = organization.workspaces.order_by("name", "created").values_list("uuid", "name")
        self.fields["verb"].choices = [("", "Any action"), *((verb, verb) for verb in verbs)]  # type: ignore[attr-defined]
        self.fields["workspace"].choices = [("", "Whole organization"), *workspaces]  # type: ignore[attr-defined]
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = str(field.label)


class TokenForm(forms.Form):
    """May be sent twice, and makes one token."""

    key = forms.UUIDField(widget=forms.HiddenInput, required=False)
    name = forms.CharField(
        max_length=80,
        validators=[plain_line],
        help_text="What will use it, e.g. “nightly build”. It is shown in the list and in the audit.",
    )
    role = forms.ChoiceField(help_text="It never does more than you may do yourself at that moment.")
    days = forms.ChoiceField(
        label="Expires",
        initial="90",
        choices=[("30", "in 30 days"), ("90", "in 90 days"), ("365", "in a year"), ("0", "never")],
    )

    def __init__(self, *args: Any, roles: Sequence[OrganizationRole | WorkspaceRole], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("key", uuid4())
        self.fields["role"].choices = [(role.value, role.label) for role in roles]  # type: ignore[attr-defined]
        self.initial.setdefault("role", roles[-1].value)

    def clean_key(self) -> UUID:
        key: UUID | None = self.cleaned_data.get("key")
        return key or uuid4()

    def clean_days(self) -> int | None:
        return int(self.cleaned_data["days"]) or None


class OwnWords(forms.Form):
    """For allauth's forms: their fields under the names that they have everywhere else, and no placeholders."""

    LABELS: ClassVar[dict[str, str]] = {
        "login": "E-mail address",
        "email": "E-mail address",
        "password": "Password",
        "remember": "Stay signed in",
        "oldpassword": "Your password now",
        "password1": "New password",
        "password2": "New password again",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.label = self.LABELS.get(name, field.label)
            field.widget.attrs.pop("placeholder", None)


class LoginForm(OwnWords, allauth_forms.LoginForm):  # type: ignore[misc]
    pass


class SignupForm(OwnWords, allauth_forms.SignupForm):  # type: ignore[misc]
    LABELS = {**OwnWords.LABELS, "password1": "Password", "password2": "Password again"}


class AddEmailForm(OwnWords, allauth_forms.AddEmailForm):  # type: ignore[misc]
    LABELS = {"email": "New e-mail address"}


class ChangePasswordForm(OwnWords, allauth_forms.ChangePasswordForm):  # type: ignore[misc]
    pass


class SetPasswordForm(OwnWords, allauth_forms.SetPasswordForm):  # type: ignore[misc]
    pass


class ResetPasswordForm(OwnWords, allauth_forms.ResetPasswordForm):  # type: ignore[misc]
    pass


class ResetPasswordKeyForm(OwnWords, allauth_forms.ResetPasswordKeyForm):  # type: ignore[misc]
    pass


class PasswordAgainForm(OwnWords, allauth_forms.ReauthenticateForm):  # type: ignore[misc]
    pass
