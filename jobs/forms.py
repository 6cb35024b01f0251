from __future__ import annotations

import re
import shlex
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings

from clusters.models import Cluster
from workspaces.forms import OnceForm
from workspaces.models import Workspace

# What git-check-ref-format(1) forbids; `jobs/onnode/job.py` asks again where git is called.
_NO_REFERENCE = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^-|^@$")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class JobForm(OnceForm):
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
        help_text="The repository's address as in the browser's address bar, without “.git” at its end.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "inputmode": "url"}),
    )
    reference = forms.CharField(
        max_length=200,
        required=False,
        help_text="Branch, tag or commit. Empty: the repository's main branch.",
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
    )

    def __init__(self, *args: Any, workspace: Workspace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workspace = workspace
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
        return command

    def clean_git_url(self) -> str:
        url: str = self.cleaned_data["git_url"].strip().rstrip("/")
        if re.search(r"[\x00-\x20\x7f]", url) or url.startswith("-"):
            raise forms.ValidationError("This is not a web address.")
        try:
            parts = urlsplit(url)
            here = parts.scheme == "http" and parts.hostname in _LOOPBACK and settings.GIT_FROM_THIS_MACHINE
            bad_port = parts.port == 0
        except ValueError as error:
            raise forms.ValidationError("This is not a web address.") from error
        if not (parts.scheme in {"https", "ssh"} or here) or not parts.hostname or bad_port:
            raise forms.ValidationError("Begin with https:// or ssh://.")
        if parts.password or (parts.username and parts.scheme != "ssh"):
            raise forms.ValidationError("Leave the user name and password out of the address.")
        if url.endswith(".git"):
            raise forms.ValidationError("Leave out “.git” at the end: use the address that your browser shows.")
        return url

    def clean_reference(self) -> str:
        reference: str = self.cleaned_data["reference"].strip()
        if _NO_REFERENCE.search(reference):
            raise forms.ValidationError("This is no name of a branch, tag or commit.")
        return reference
