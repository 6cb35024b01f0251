from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, ClassVar
from uuid import UUID, uuid4

from django import forms
from django.db.models import Q, QuerySet

from accounts.models import Organization
from portal.errors import PortalError, Refused
from portal.forms import plain_line
from workspaces import choiceforms, pools
from workspaces.models import CloudConfig, Workspace, WorkspaceQuerySet


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
    """What every kind of cloud asks for, of a new configuration, or to change one. A kind adds fields, and gives them.

    A field that is called like one of the kind's options is filled in with that. Those of the credentials are named in
    `sealed`: they are never filled in, and while a configuration has credentials, nothing in them changes nothing.
    """

    kind: ClassVar[CloudConfig.Kind]
    about: ClassVar[str]  # the template of what people should know of this kind
    sealed: ClassVar[Collection[str]] = ()
    fixed: str = ""  # why its name is all that can be changed of one, as a sentence

    name = forms.CharField(max_length=80, validators=[plain_line], help_text="As your team will see it.")

    def __init__(
        self, data: Any = None, *, organization: Organization, config: CloudConfig | None = None, **kwargs: Any
    ) -> None:
        if config:
            kwargs["initial"] = self.filled_in(config) | kwargs.get("initial", {})
        super().__init__(data, **kwargs)
        self.organization, self.config = organization, config
        self.others = [form.kind for form in CONFIG_FORMS if form is not type(self)]
        if config:
            del self.fields["key"]
        for name in self.sealed:
            field = self.fields[name]
            field.widget = forms.PasswordInput(attrs={"autocomplete": "new-password"})  # never shown, not even again
            if config and config.credentials:
                field.required = False
                field.help_text = f"{field.help_text} Empty: it stays what it is.".strip()

    def filled_in(self, config: CloudConfig) -> dict[str, Any]:
        """What the fields say of a configuration that is there."""
        known = {name: value for name, value in config.options.items() if name in self.base_fields}
        return {name: value for name, value in known.items() if name not in self.sealed} | {"name": config.name}

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        others = self.organization.cloud_configs.live()
        if self.is_taken(others.exclude(pk=self.config.pk) if self.config else others, name):
            raise forms.ValidationError("There is a cloud configuration of this name.")
        return name

    @property
    def options(self) -> dict[str, Any]:
        """For `CloudConfig.options`, once the form is valid: in the words of the kind's own `Options`."""
        return {}

    @property
    def credentials(self) -> str:
        """What is sealed, once the form is valid. Empty where none were given: those that are there stay."""
        return ""


class LocalConfigForm(CloudConfigForm):
    """Nothing more to ask: what nodes of this computer may do is decided by whoever runs the portal."""

    kind = CloudConfig.Kind.LOCAL
    about = "workspaces/_about_local.html"
    fixed = "What nodes of this computer may do is decided by whoever runs the portal, in its settings."

    name = forms.CharField(
        max_length=80, validators=[plain_line], initial="This computer", help_text="As your team will see it."
    )


class MachinesConfigForm(CloudConfigForm):
    """Nothing more to ask here: its pools are made on its page."""

    kind = CloudConfig.Kind.MACHINES
    about = "workspaces/_about_machines.html"

    name = forms.CharField(
        max_length=80, validators=[plain_line], initial="Own machines", help_text="As your team will see it."
    )


class AwsConfigForm(CloudConfigForm):
    """Which account it will be; how it is connected comes next. What it has once it is finished stays."""

    kind = CloudConfig.Kind.AWS
    about = "workspaces/_about_aws.html"

    name = forms.CharField(max_length=80, validators=[plain_line], initial="AWS", help_text="As your team will see it.")
    account = forms.RegexField(
        r"^[0-9]{4}[- ]?[0-9]{4}[- ]?[0-9]{4}\Z",
        strip=True,
        label="AWS account ID",
        help_text="Twelve digits: AWS's console has them in its upper right corner.",
        error_messages={"invalid": "An account ID has twelve digits."},
        widget=forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off", "class": "w-m mono"}),
    )
    region = forms.RegexField(
        r"^[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}\Z",
        max_length=40,
        strip=True,
        label="Region of the metadata store",
        initial="us-east-1",
        help_text="Where the bucket and the table will be. Workspaces can be in any region of the account.",
        error_messages={"invalid": "That is no region of AWS. One is called like us-east-1."},
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false", "class": "w-m mono"}),
    )

    def __init__(self, data: Any = None, *, config: CloudConfig | None = None, **kwargs: Any) -> None:
        super().__init__(data, config=config, **kwargs)
        if config and config.is_finished:
            del self.fields["account"], self.fields["region"]
            self.fixed = "Its role and its store stay: another account, or another store, is another configuration."

    def filled_in(self, config: CloudConfig) -> dict[str, Any]:
        return {**config.options.get("draft", {}), "name": config.name}

    def clean_account(self) -> str:
        return re.sub(r"[- ]", "", self.cleaned_data["account"])

    @property
    def options(self) -> dict[str, Any]:
        if "account" not in self.fields:
            return {}
        return {"draft": {name: self.cleaned_data[name] for name in ("account", "region")}}

    @property
    def credentials(self) -> str:
        """An external id of its own, for ever."""
        return "" if self.config else str(uuid4())


CONFIG_FORMS: list[type[CloudConfigForm]] = [
    LocalConfigForm,
    MachinesConfigForm,
    AwsConfigForm,
]  # of each kind, the one to begin with first


def config_form(kind: str) -> type[CloudConfigForm]:
    """Of this kind; the first one where there is no such."""
    return next((form for form in CONFIG_FORMS if form.kind == kind), CONFIG_FORMS[0])


class ConfigChoiceField(forms.ModelChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Any) -> str:
        return f"{obj} ({obj.get_kind_display()}, {str(obj.uuid)[:8]})"


class WorkspaceForm(OnceForm):
    name = forms.CharField(label="Workspace name", max_length=80, validators=[plain_line])
    cloud_config = ConfigChoiceField(
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
        self.configs = configs
        self.fields["cloud_config"].queryset = configs  # type: ignore[attr-defined]
        groups: list[tuple[str, list[tuple[str, str]]]] = []
        for config in configs:
            try:
                groups.append((str(config), [(region.name, region.title) for region in config.regions]))
            except PortalError:
                continue  # the form says at its field that this configuration has no regions
        field = self.fields["region"]
        words = sorted({config.region_word for config in configs})
        if words == ["Pool"]:
            field.label, field.help_text = "Pool", "On whose computers its files and clusters will be."
        elif "Pool" in words:
            field.label = "Pool or region"
        # Each configuration has regions of its own: of several, they stand under its name.
        choices = groups[0][1] if len(groups) == 1 else groups
        field.choices = choices  # type: ignore[attr-defined]
        self.config = self._config(str(self["cloud_config"].value() or ""))
        self.more = choiceforms.fields_of(self.config)
        if self.more and self.config:
            self.fields |= self.more
            self.initial = {**choiceforms.suggested(self.config), **self.initial}

    def _config(self, uuid: str) -> CloudConfig | None:
        """The one that is chosen, or would be: what else is asked depends on its kind."""
        return next((one for one in self.configs if str(one.uuid) == uuid), next(iter(self.configs), None))

    @property
    def common(self) -> list[forms.BoundField]:
        """What is asked everywhere."""
        return [field for field in self.visible_fields() if field.name not in self.more]

    @property
    def special(self) -> list[forms.BoundField]:
        """What its kind of cloud asks for besides."""
        return [field for field in self.visible_fields() if field.name in self.more]

    @property
    def was_seen(self) -> bool:
        """Whether what was sent is of the kind of cloud that is chosen: without JavaScript, another may have been."""
        return all(name in self.data for name in self.more)

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
                regions = {one.name for one in config.regions}
            except PortalError as error:
                self.add_error("cloud_config", " ".join(filter(None, [error.message, error.advice])))
            else:
                if region not in regions:
                    self.add_error("region", f"{config.name} has no region {region}.")
                elif why := pools.why_not(config, region):
                    self.add_error("region", why)
        if config and self.more:
            self._choose(config, data)
        return data

    def _choose(self, config: CloudConfig, data: dict[str, Any]) -> None:
        try:
            data["choices"] = choiceforms.chosen(config, data)
            data["extra_tags"] = choiceforms.tags_of(data.get("tags") or "")
        except Refused as error:
            self.add_error(error.field, error.message)


class WorkspaceFilterForm(forms.Form):
    """What the list is narrowed to, in its address. `configs`: uuid and name of those that may be chosen."""

    q = forms.CharField(
        max_length=80,
        required=False,
        widget=forms.TextInput(
            attrs={"type": "search", "placeholder": "Find by name or UUID", "aria-label": "Find by name or UUID"}
        ),
    )
    status = forms.ChoiceField(
        choices=[
            ("", "Any status"),
            *(
                (status.value, Workspace.STATES[status].badge.word)
                for status in Workspace.Status
                if status != Workspace.Status.TERMINATED
            ),
        ],
        required=False,
        widget=forms.Select(attrs={"aria-label": "Status"}),
    )
    cloud = forms.ChoiceField(required=False, widget=forms.Select(attrs={"aria-label": "Cloud configuration"}))
    sort = forms.ChoiceField(
        choices=[("", "Name"), ("new", "Newest first")],
        required=False,
        widget=forms.Select(attrs={"aria-label": "Order"}),
    )

    def __init__(self, data: Any, *, configs: Sequence[tuple[UUID, str]]) -> None:
        super().__init__(data)
        field: Any = self.fields["cloud"]
        field.choices = [("", "Any cloud configuration"), *((str(uuid), name) for uuid, name in configs)]
        if len(configs) < 2 and not data.get("cloud"):
            del self.fields["cloud"]

    def narrow(self, rows: WorkspaceQuerySet) -> WorkspaceQuerySet:
        asked = self.cleaned_data
        if asked.get("cloud"):
            rows = rows.filter(cloud_config__uuid=asked["cloud"])
        rows = rows.filter(status=asked["status"]) if asked["status"] else rows.live()
        found = asked["q"]
        return rows.filter(Q(name__icontains=found) | Q(uuid__istartswith=found)) if found else rows

    @property
    def order(self) -> tuple[str, ...]:
        return ("-pk",) if self.cleaned_data["sort"] == "new" else ("name", "pk")


class RenameForm(forms.Form):
    """For a workspace, which has a name of its own among `others`, however it is written."""

    name = forms.CharField(max_length=80, validators=[plain_line])

    def __init__(self, data: Any = None, *, row: Workspace, others: QuerySet[Any]) -> None:
        super().__init__(data, initial={"name": row.name})
        self.others = others.exclude(pk=row.pk)

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.others.filter(name__iexact=name).exists():
            raise forms.ValidationError("Another one has this name.")
        return name
