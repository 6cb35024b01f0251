from __future__ import annotations

import re
import shlex
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings

from clusters.models import Cluster
from jobs.actions import Credential
from jobs.causes import span
from portal.environment import is_loopback
from workspaces.forms import OnceForm
from workspaces.models import Workspace

# What git-check-ref-format(1) forbids; `jobs/onnode/source.py` asks again where git is called.
_NO_REFERENCE = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^-|^@$")

# A word as it was typed, with its quotes; and those that a shell would not hand on.
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", re.DOTALL)
_OPERATOR = re.compile(r"\d*(?:&&|\|\|?|&>|[<>]+&?|[;&])|`|\$\(")
_OPERATOR_LAST = re.compile(r"(?<!\\)(?:&&|\|\||[|;&<>])$")


MOST_MINUTES = 60 * 24 * 365


class CredentialForm(forms.Form):
    """What a private repository asks for. The password is never shown again, not even in this form."""

    git_username = forms.CharField(
        label="User name",
        max_length=200,
        required=False,
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    git_password = forms.CharField(
        label="Password or access token",
        max_length=2000,
        required=False,
        strip=False,
        help_text="With two-factor authentication it has to be a token. Best is one that may only read this repository:"
        " whoever runs jobs in the workspace runs this one too.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, git_url: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = git_url  # where it is no field of the form

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        username, password = data.get("git_username", ""), data.get("git_password", "")
        for name, value in (("git_username", username), ("git_password", password)):
            if re.search(r"[\x00-\x1f\x7f]", value):
                self.add_error(name, "This cannot have line breaks or control characters in it.")
        if username and not password and "git_password" not in self.errors:
            self.add_error("git_password", "Give the password or access token of this user name.")
        if password and urlsplit(data.get("git_url", self.address)).scheme == "ssh":
            self.add_error("git_password", "A password is for an address that begins with https://.")
        return data

    @property
    def credential(self) -> Credential | None:
        """What was typed; servers take any user name with a token, but none at all."""
        password: str = self.cleaned_data["git_password"]
        return Credential(self.cleaned_data["git_username"] or "git", password) if password else None


class JobForm(OnceForm, CredentialForm):
    name = forms.CharField(label="Job name", max_length=80)
    cluster = forms.ModelChoiceField(Cluster.objects.none(), to_field_name="uuid", empty_label=None)
    command = forms.CharField(
        max_length=4000,
        help_text="A Python file of the repository and its arguments. It is run as mpiexec -n CORES python …",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    git_url = forms.CharField(
        label="Git URL",
        max_length=500,
        help_text="The repository's address, as the browser's address bar has it or for git clone.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "inputmode": "url"}),
    )
    reference = forms.CharField(
        max_length=200,
        required=False,
        help_text="Branch, tag or commit. Empty: the repository's main branch.",
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
    )
    time_limit = forms.IntegerField(
        label="Time limit in minutes",
        min_value=1,
        max_value=MOST_MINUTES,
        required=False,
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    field_order = ("name", "cluster", "command", "git_url", "reference", "time_limit")

    def __init__(self, *args: Any, workspace: Workspace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workspace = workspace
        self.fields[
            "time_limit"
        ].help_text = f"The head node ends a run that takes longer. Empty: {span(settings.RUN_SECONDS)}."
        gone = (Cluster.Status.TERMINATING, Cluster.Status.TERMINATED, Cluster.Status.FAILED)
        clusters = workspace.clusters.exclude(status__in=gone).order_by("name")
        self.fields["cluster"].queryset = clusters  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.is_taken(self.workspace.jobs.all(), name):
            raise forms.ValidationError("There is a job of this name in the workspace.")
        return name

    def clean_command(self) -> str:
        command: str = self.cleaned_data["command"]
        if "\0" in command:
            raise forms.ValidationError("A command cannot contain a NUL character.")
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise forms.ValidationError(f"A shell could not split this: {error}.") from error
        if not words:
            raise forms.ValidationError("Name a Python file of the repository.")
        if words[0] in {"python", "python3", "mpiexec", "mpirun"}:
            raise forms.ValidationError(f"Leave out “{words[0]}”: the portal puts “mpiexec -n CORES python” in front.")
        if re.match(r"[A-Za-z_]\w*=", words[0]):
            raise forms.ValidationError(
                f"“{words[0]}” is for a shell, and none runs the command: name a Python file first."
            )
        for word in _WORD.findall(command):
            if operator := _OPERATOR.match(word) or _OPERATOR_LAST.search(word):
                raise forms.ValidationError(
                    f"“{operator.group()}” is for a shell, and none runs the command: it would be an argument of the"
                    " program. Leave it out; or put quotes around it if the program is to have it."
                )
        return command

    def clean_git_url(self) -> str:
        url: str = self.cleaned_data["git_url"].strip().rstrip("/")
        if re.search(r"[\x00-\x20\x7f]", url) or url.startswith("-"):
            raise forms.ValidationError("This is not a web address.")
        try:
            parts = urlsplit(url)
            here = parts.scheme == "http" and is_loopback(parts.hostname) and settings.GIT_FROM_THIS_MACHINE
            bad_port = parts.port == 0
        except ValueError as error:
            raise forms.ValidationError("This is not a web address.") from error
        if not (parts.scheme in {"https", "ssh"} or here) or not parts.hostname or bad_port:
            raise forms.ValidationError("Begin with https:// or ssh://.")
        if parts.password or (parts.username and parts.scheme != "ssh"):
            raise forms.ValidationError("Leave the user name and password out of the address.")
        return url

    def clean_reference(self) -> str:
        reference: str = self.cleaned_data["reference"].strip()
        if _NO_REFERENCE.search(reference):
            raise forms.ValidationError("This is no name of a branch, tag or commit.")
        return reference

    @property
    def private_fields(self) -> list[forms.BoundField]:
        return [self["git_username"], self["git_password"]]

    @property
    def public_fields(self) -> list[forms.BoundField]:
        private = {field.name for field in self.private_fields}
        return [field for field in self.visible_fields() if field.name not in private]

    @property
    def is_private(self) -> bool:
        """Whether the part about private repositories has something to show."""
        return any(field.data or field.errors for field in self.private_fields)
