from __future__ import annotations

from typing import Any
from uuid import uuid4

from django import forms

from clusters.models import InstanceRole
from portal.clouds.aws.options import ROLE
from portal.forms import plain_line
from workspaces.forms import OnceForm
from workspaces.models import Workspace


class InstanceRoleForm(OnceForm):
    """Whether there is such a role in the account is asked afterwards, by a task."""

    name = forms.CharField(max_length=80, validators=[plain_line], help_text="As it is chosen for a cluster.")
    arn = forms.CharField(
        label="Role ARN",
        max_length=620,
        help_text="From the role's page in IAM.",
        widget=forms.TextInput(
            attrs={"autocapitalize": "none", "spellcheck": "false", "autocomplete": "off", "class": "mono"}
        ),
    )
    description = forms.CharField(
        required=False, max_length=200, validators=[plain_line], help_text="What it is for, in a line."
    )

    def __init__(self, *args: Any, workspace: Workspace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.others = InstanceRole.objects.live().filter(workspace=workspace)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.is_taken(self.others, name):
            raise forms.ValidationError("There is an instance role of this name in the workspace.")
        return name

    def clean_arn(self) -> str:
        arn: str = self.cleaned_data["arn"]
        if not ROLE.fullmatch(arn):
            raise forms.ValidationError("A role is written like arn:aws:iam::123456789012:role/name.")
        other = self.others.filter(arn=arn).exclude(uuid=self.cleaned_data.get("key") or uuid4()).first()
        if other:
            raise forms.ValidationError(f"{other} is this role already.")
        return arn
