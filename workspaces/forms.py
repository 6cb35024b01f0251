from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django import forms
from django.db.models import QuerySet

from accounts.models import Organization
from portal.errors import PortalError
from workspaces.models import CloudConfig, Workspace


class OnceForm(forms.Form):
    """A form that may be sent twice (a reload, a nervous finger) and makes one thing: its uuid travels with it."""

    key = forms.UUIDField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("key", uuid4())

    def clean_key(self) -> UUID:
        key: UUID | None = self.cleaned_data.get("key")
        return key or uuid4()

    def is_taken(self, queryset: QuerySet[Any], name: str) -> bool:
        """Whether another row than the one that this form has made already has this name."""
        return queryset.filter(name__iexact=name).exclude(uuid=self.cleaned_data.get("key") or uuid4()).exists()


class CloudConfigForm(OnceForm):
    name = forms.CharField(max_length=80, initial="This computer", help_text="As your team will see it.")
    kind = forms.ChoiceField(
        choices=CloudConfig.Kind.choices,
        label="Cloud",
        initial=CloudConfig.Kind.LOCAL,
        help_text="“This computer” makes real nodes on the machine that the portal runs on. It needs no account.",
    )

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.organization = organization

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.is_taken(self.organization.cloud_configs.live(), name):
            raise forms.ValidationError("There is a cloud configuration of this name.")
        return name


class WorkspaceForm(OnceForm):
    name = forms.CharField(label="Workspace name", max_length=80)
    cloud_config = forms.ModelChoiceField(
        CloudConfig.objects.none(),
        label="Cloud configuration",
        empty_label=None,
        to_field_name="uuid",
        help_text="It cannot be changed later.",
    )
    region = forms.ChoiceField(help_text="Where its files and clusters will be.")

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.organization = organization
        configs = organization.cloud_configs.live().order_by("name")
        self.fields["cloud_config"].queryset = configs  # type: ignore[attr-defined]
        regions: dict[str, str] = {}
        for config in configs:
            try:
                regions |= {region.name: region.title for region in config.account.regions()}
            except PortalError:
                continue  # the form says at its field that this configuration has no regions
        self.fields["region"].choices = list(regions.items())  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.is_taken(self.organization.workspaces.live(), name):
            raise forms.ValidationError("There is a workspace of this name.")
        return name

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        config, region = data.get("cloud_config"), data.get("region")
        if config and region:
            try:
                regions = {one.name for one in config.account.regions()}
            except PortalError as error:
                self.add_error("cloud_config", " ".join(filter(None, [error.message, error.advice])))
            else:
                if region not in regions:
                    self.add_error("region", f"{config.name} has no region {region}.")
        return data


class RenameForm(forms.Form):
    """For a row that has a name of its own among `others`, however it is written."""

    name = forms.CharField(max_length=80)

    def __init__(self, data: Any = None, *, row: CloudConfig | Workspace, others: QuerySet[Any]) -> None:
        super().__init__(data, initial={"name": row.name})
        self.others = others.exclude(pk=row.pk)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.others.filter(name__iexact=name).exists():
            raise forms.ValidationError("Another one has this name.")
        return name
