"""Forms of the Git credentials of a workspace. A secret that was given is in no page again, not even in its form."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings

from portal.environment import is_loopback
from portal.forms import plain_line
from workspaces.forms import OnceForm
from workspaces.models import Workspace

_HOST = re.compile(r"\w(?:[\w.-]*\w)?|[0-9a-f:.]+")
_PORTS = {"https": 443, "http": 80}


def server_of(text: str) -> str:
    """`https://HOST` or `https://HOST:PORT`, of that or of any address there. Raises `ValidationError`."""
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise forms.ValidationError("This is not the name of a server.", code="no_server") from error
    if parts.username or parts.password:
        raise forms.ValidationError("Leave the user name and password out of the address.", code="password")
    here = parts.scheme == "http" and is_loopback(host) and settings.GIT_FROM_THIS_MACHINE
    if parts.scheme != "https" and not here:
        raise forms.ValidationError("A password is for a server that is asked by https://.", code="scheme")
    if port == 0 or re.search(r"[\x00-\x20\x7f]", text) or not _HOST.fullmatch(host):
        raise forms.ValidationError("This is not the name of a server.", code="no_server")
    bracketed = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{bracketed}{f':{port}' if port and port != _PORTS[parts.scheme] else ''}"


class GitSecretForm(forms.Form):
    """To sign in with from now on."""

    username = forms.CharField(
        label="User name",
        max_length=200,
        required=False,
        help_text="Empty: git, which servers take with an access token.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    secret = forms.CharField(
        label="Password or access token",
        max_length=2000,
        strip=False,
        help_text="Kept encrypted and never shown again. Best is a token that may only read.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def _one_line(self, name: str) -> str:
        value: str = self.cleaned_data[name]
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise forms.ValidationError("This cannot have line breaks or control characters in it.")
        return value

    def clean_username(self) -> str:
        return self._one_line("username") or "git"

    def clean_secret(self) -> str:
        return self._one_line("secret")


class GitCredentialForm(OnceForm, GitSecretForm):
    name = forms.CharField(
        max_length=80, validators=[plain_line], help_text="By which the forms of jobs offer it.", label="Name"
    )
    server = forms.CharField(
        label="Server",
        max_length=300,
        help_text="Such as github.com, or https://git.example.org:8443. It is sent to no other server.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off", "inputmode": "url"}),
    )
    field_order = ("key", "name", "server", "username", "secret")

    def __init__(self, *args: Any, workspace: Workspace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workspace = workspace

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.is_taken(self.workspace.git_credentials.live(), name):
            raise forms.ValidationError("Another one has this name.")
        return name

    def clean_server(self) -> str:
        return server_of(self.cleaned_data["server"])
