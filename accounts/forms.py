from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.password_validation import validate_password

from accounts.models import Organization, User


class FirstAdministratorForm(forms.Form):
    organization = forms.CharField(max_length=80, help_text="Your team or company; it can be renamed later.")
    name = forms.CharField(max_length=120, label="Your name", widget=forms.TextInput(attrs={"autocomplete": "name"}))
    email = forms.EmailField(label="E-mail address", widget=forms.EmailInput(attrs={"autocomplete": "email"}))
    password = forms.CharField(
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        strip=False,
        help_text="At least 12 characters. A few unrelated words are good.",
    )
    again = forms.CharField(
        label="Password again", widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}), strip=False
    )

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"].strip().lower()
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


class AuditFilterForm(forms.Form):
    """Which entries of the audit are shown. All of it may be left out."""

    q = forms.CharField(
        label="Person, object or request id",
        required=False,
        max_length=254,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Person, object or request id"}),
    )
    verb = forms.ChoiceField(label="Action", required=False)
    workspace = forms.ChoiceField(required=False)
    day = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    before = forms.IntegerField(required=False, min_value=1, max_value=2**62, widget=forms.HiddenInput)

    def __init__(self, *args: Any, organization: Organization, verbs: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        workspaces = organization.workspaces.order_by("name", "created").values_list("uuid", "name")
        self.fields["verb"].choices = [("", "Any action"), *((verb, verb) for verb in verbs)]  # type: ignore[attr-defined]
        self.fields["workspace"].choices = [("", "Whole organization"), *workspaces]  # type: ignore[attr-defined]
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = field.label or ""
