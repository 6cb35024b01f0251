from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from django import forms
from django.conf import settings
from django.db.models import Subquery
from django.utils.timezone import now

from accounts.models import User
from clusters.models import Cluster
from jobs import repositories, rules
from jobs.actions import Credential, Program
from jobs.causes import span
from jobs.dispatch import GONE
from jobs.models import Job, JobQuerySet, Run, RunQuerySet
from portal import clouds
from workspaces.forms import OnceForm
from workspaces.models import Workspace


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


class ClusterField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """The clusters of a workspace that a run may be asked for on."""

    def __init__(self) -> None:
        super().__init__(Cluster.objects.none(), to_field_name="uuid", empty_label=None)

    def label_from_instance(self, cluster: Any) -> str:
        return f"{cluster.name}, {cluster.badge.word}, {cluster.cores} core{'' if cluster.cores == 1 else 's'}"

    def offer(self, workspace: Workspace, chosen: Cluster | None) -> None:
        """Where the chosen one is gone, none is chosen: the person has to say which."""
        self.queryset = workspace.clusters.exclude(status__in=GONE).with_lost_nodes().order_by("name")
        self.empty_label = "Choose a cluster" if chosen and chosen.status in GONE else None


class ProgramForm(OnceForm):
    """What a run runs, but for its source."""

    cluster = ClusterField()
    command = forms.CharField(
        help_text="A Python file of the repository and its arguments. The portal puts the rest in front; CORES are all"
        " cores that the cluster has when the run starts.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off", "class": "mono"}),
    )
    reference = forms.CharField(
        required=False,
        help_text="Branch, tag or commit. Empty: the repository's main branch.",
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
    )
    time_limit = forms.IntegerField(
        label="Time limit in minutes", required=False, widget=forms.NumberInput(attrs={"inputmode": "numeric"})
    )
    resumes = forms.BooleanField(
        required=False,
        label="Resume the cluster if it is paused",
        help_text="Without this, a run waits until somebody resumes it.",
    )
    field_order: tuple[str, ...] = (
        *("key", "name", "cluster", "resumes"),
        *("command", "git_url", "reference", "time_limit"),
    )

    def __init__(self, *args: Any, workspace: Workspace, of: Job | Run | None = None, **kwargs: Any) -> None:
        """`of`: what the form is filled in with, unless `initial` says otherwise."""
        if of:
            filled = {
                "cluster": of.cluster.uuid,
                "command": of.command,
                "git_url": of.git_url,
                "reference": of.reference,
                "time_limit": of.time_limit // 60 if of.time_limit else None,
                "resumes": of.resumes,
            }
            kwargs["initial"] = filled | kwargs.get("initial", {})
        super().__init__(*args, **kwargs)
        self.workspace = workspace
        limit = self.fields["time_limit"]
        limit.help_text = f"The head node ends a run that takes longer. Empty: {span(settings.RUN_SECONDS)}."
        field: Any = self.fields["cluster"]
        field.offer(workspace, of.cluster if of else None)
        if clouds.Can.PAUSE not in workspace.can:
            del self.fields["resumes"]

    def clean_command(self) -> str:
        return rules.command(self.cleaned_data["command"])

    def clean_reference(self) -> str:
        return rules.reference(self.cleaned_data["reference"])

    def clean_time_limit(self) -> int | None:
        """In seconds."""
        return rules.time_limit(self.cleaned_data["time_limit"])

    def program(self, git_url: str) -> Program:
        data = self.cleaned_data
        resumes = data.get("resumes", False)
        return Program(data["cluster"], git_url, data["reference"], data["command"], data["time_limit"], resumes)


class EditJobForm(ProgramForm):
    name = forms.CharField(label="Job name", widget=forms.TextInput(attrs={"maxlength": rules.LONGEST_NAME}))
    git_url = forms.CharField(
        label="Git URL",
        help_text="The repository's address, as the browser's address bar has it or for git clone.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "inputmode": "url"}),
    )

    def __init__(self, *args: Any, of: Job | None = None, **kwargs: Any) -> None:
        if of:
            kwargs["initial"] = {"name": of.name} | kwargs.get("initial", {})
        super().__init__(*args, of=of, **kwargs)
        self.job = of

    def clean_name(self) -> str:
        name = rules.name(self.cleaned_data["name"])
        mine = self.job.uuid if self.job else self.cleaned_data.get("key")
        if self.workspace.jobs.live().filter(name__iexact=name).exclude(uuid=mine or uuid4()).exists():
            raise forms.ValidationError("There is a job of this name in the workspace.")
        return name

    def clean_git_url(self) -> str:
        git_url = rules.git_url(self.cleaned_data["git_url"])
        if repositories.is_example(git_url) and (why := repositories.out_of_reach(self.workspace.cloud_config)):
            raise forms.ValidationError(why, code="out_of_reach")
        return git_url


class JobForm(EditJobForm, CredentialForm):
    """Of a new job."""

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


class FilterForm(forms.Form):
    """What a list is narrowed to, in its address. `clusters` are those that may be chosen."""

    q = forms.CharField(
        label="Find by name",
        max_length=80,
        required=False,
        widget=forms.TextInput(
            attrs={"type": "search", "placeholder": "Find by the job's name", "aria-label": "Find by the job's name"}
        ),
    )
    cluster = forms.ChoiceField(required=False, widget=forms.Select(attrs={"aria-label": "Cluster"}))

    def __init__(self, *args: Any, clusters: Sequence[Cluster], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clusters = {str(cluster.uuid): cluster for cluster in clusters}
        field: Any = self.fields["cluster"]
        gone = (Cluster.Status.TERMINATED,)
        field.choices = [
            ("", "Any cluster"),
            *((key, f"{one.name}{' (gone)' if one.status in gone else ''}") for key, one in self.clusters.items()),
        ]

    @property
    def chosen(self) -> Cluster | None:
        return self.clusters.get(self.cleaned_data["cluster"])


class JobFilterForm(FilterForm):
    sort = forms.ChoiceField(
        choices=[("", "Ran last"), ("name", "Name")], required=False, widget=forms.Select(attrs={"aria-label": "Order"})
    )

    def narrow(self, rows: JobQuerySet) -> JobQuerySet:
        if word := self.cleaned_data["q"]:
            rows = rows.filter(name__icontains=word)
        return rows.filter(cluster=self.chosen) if self.chosen else rows


class RunsFilterForm(forms.Form):
    """What a list of runs is narrowed to, wherever they are. `reader` is “me”; `may_run`: they may run jobs there.

    One person's runs can be asked for by their id, too.
    """

    status = forms.ChoiceField(required=False, widget=forms.Select(attrs={"aria-label": "Status"}))
    who = forms.CharField(required=False, widget=forms.Select(attrs={"aria-label": "Asked for by"}))
    days = forms.ChoiceField(
        choices=[("", "Any time"), ("1", "Last 24 hours"), ("7", "Last 7 days"), ("30", "Last 30 days")],
        required=False,
        widget=forms.Select(attrs={"aria-label": "Time"}),
    )
    sort = forms.ChoiceField(
        choices=[("", "Newest first"), ("old", "Oldest first")], required=False, widget=forms.HiddenInput
    )

    def __init__(self, *args: Any, reader: Any, may_run: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reader = reader
        status: Any = self.fields["status"]
        status.choices = [
            ("", "Any status"),
            ("going", "Not ended"),
            ("needs", "Failed, needs you" if may_run else "Failed, not mended"),
            *((status.value, Run.STATES[status].badge.word) for status in Run.Status),
        ]
        who: Any = self.fields["who"]
        asked = self.data.get("who", "")
        others = [(asked, "One person")] if asked not in ("", "me") else []
        who.widget.choices = [("", "Anybody"), ("me", "Me"), *others]

    def clean_who(self) -> UUID | None:
        match self.cleaned_data["who"]:
            case "":
                return None
            case "me":
                return cast("UUID", self.reader.uuid)
            case other:
                try:
                    return UUID(other)
                except ValueError as error:
                    raise forms.ValidationError("This is nobody.") from error

    def narrow(self, rows: RunQuerySet) -> RunQuerySet:
        """Each of these, and the order by number in the database, is a piece of an index."""
        asked = self.cleaned_data
        match asked["status"]:
            case "":
                pass
            case "going":
                rows = rows.unfinished()
            case "needs":
                rows = rows.filter(needs_you=True)
            case status:
                rows = rows.filter(status=status)
        if asked["who"]:
            rows = rows.filter(started_by=Subquery(User.objects.filter(uuid=asked["who"]).values("pk")))
        return rows.since(now() - timedelta(days=int(asked["days"]))) if asked["days"] else rows


class RunFilterForm(RunsFilterForm, FilterForm):
    """Of the runs of a workspace."""

    job = forms.UUIDField(required=False, widget=forms.HiddenInput)
    field_order = ("q", "status", "cluster", "who", "days", "sort")

    def narrow(self, rows: RunQuerySet) -> RunQuerySet:
        rows = super().narrow(rows)
        return rows.filter(cluster=self.chosen) if self.chosen else rows
