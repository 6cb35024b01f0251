from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from django import forms
from django.conf import settings
from django.db.models import Subquery
from django.utils.timezone import get_current_timezone_name, now

from accounts.models import User
from clusters.estimate import node_price
from clusters.forms.create import ClusterForm, typed
from clusters.models import Cluster
from clusters.specification import Specification
from jobs import calendar, repositories, rules
from jobs.actions import Credential, Program
from jobs.causes import span
from jobs.cron import Cron, NotCron, zones
from jobs.fields import OWN, ClusterField, DueField, EnvironmentField, SecretsField, TagsField
from jobs.models import Job, JobQuerySet, Kind, Run, RunQuerySet, Schedule
from portal import clouds
from portal.clouds import InstanceType
from workspaces.forms import OnceForm
from workspaces.models import GitCredential, Workspace


class CredentialForm(forms.Form):
    """What a private repository asks for. The password is never shown again, not even in this form."""

    git_credential = forms.TypedChoiceField(
        label="Saved Git credential",
        required=False,
        empty_value=None,
        error_messages={"invalid_choice": "It was deleted meanwhile. Choose another one."},
        help_text="One that the workspace keeps, for the server that it names. Or give a user name and password here.",
    )
    git_username = forms.CharField(
        label="Workspace username",
        max_length=200,
        required=False,
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    git_password = forms.CharField(
        label="Workspace password",
        max_length=2000,
        required=False,
        strip=False,
        help_text="Of a private repository: the password, or an access token. With two-factor authentication it has to"
        " be a token. Best is one that may only read this repository: whoever runs jobs here runs this too.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, git_url: str = "", offered: Workspace | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = git_url  # where it is no field of the form
        if offered:
            self.offer_credentials(offered)

    def offer_credentials(self, workspace: Workspace) -> None:
        """Those that the workspace keeps; where it keeps none, nothing is asked."""
        saved = {str(one.uuid): one for one in workspace.git_credentials.live().order_by("name")}
        if not saved and not self.data.get("git_credential"):
            del self.fields["git_credential"]
            return
        field: Any = self.fields["git_credential"]
        field.choices = [("", "None"), *((uuid, one.words) for uuid, one in saved.items())]
        field.coerce = saved.__getitem__

    def add_error(self, field: str | None, error: Any) -> None:
        """The page that says it has no password in it any more: a person who mends the rest would send none."""
        super().add_error(field, error)
        for name, one in self.fields.items():
            typed = isinstance(one.widget, forms.PasswordInput) and self.data.get(self.add_prefix(name))
            if typed and field not in (name, "git_credential") and name not in self.errors:
                super().add_error(name, "This is not shown again: type it once more.")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        username, password = data.get("git_username", ""), data.get("git_password", "")
        saved, url = data.get("git_credential"), data.get("git_url", self.address)
        for name, value in (("git_username", username), ("git_password", password)):
            if re.search(r"[\x00-\x1f\x7f]", value):
                self.add_error(name, "This cannot have line breaks or control characters in it.")
        if saved and password:
            self.add_error("git_credential", "Choose one that is saved, or give a password: not both.")
        elif saved and url and (why := rules.why_not_with(saved.server, url, str(saved))):
            self.add_error("git_credential", why)
        if username and not password and not saved and "git_password" not in self.errors:
            self.add_error("git_password", "Give the password or access token of this user name.")
        if password and (urlsplit(url).scheme == "ssh" or rules.is_copied(url)):
            self.add_error("git_password", "A password is for an address that begins with https://.")
        return data

    @property
    def credential(self) -> Credential | GitCredential | None:
        """What was chosen or typed; servers take any user name with a token, but none at all."""
        saved: GitCredential | None = self.cleaned_data.get("git_credential")
        password: str = self.cleaned_data["git_password"]
        return saved or (Credential(self.cleaned_data["git_username"] or "git", password) if password else None)


def _is_filled(value: Any) -> bool:
    return any(map(any, value)) if isinstance(value, list) else bool(value)


class ProgramForm(OnceForm):
    """What a run runs, but for its source."""

    cluster = ClusterField()
    kind = forms.ChoiceField(
        label="Type",
        choices=Kind.choices,
        initial=Kind.PYTHON,
        required=False,
        help_text="A Python program runs on every core, by MPI. A shell command, or a notebook, runs once, on the"
        " first node; the notebook is kept with what its cells gave.",
    )
    command = forms.CharField(
        help_text="A Python file of the repository and its arguments: the portal puts the rest in front, and CORES are"
        " all cores that the cluster has when the run starts. Or what /bin/sh is to run, with COXSWAIN_CORES and"
        " COXSWAIN_HOSTFILE for an mpiexec of your own. Or a notebook, and its parameters: report.ipynb -p days 7.",
        widget=forms.Textarea(attrs={"rows": 1, "spellcheck": "false", "autocomplete": "off", "class": "mono"}),
    )
    reference = forms.CharField(
        required=False,
        label="Workspace reference",
        help_text="Branch, tag or commit. Empty: the repository's main branch.",
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
    )
    environment = EnvironmentField(
        required=False,
        label="Other: environment variables",
        help_text="For the program. Whoever sees the job sees them: passwords belong below.",
    )
    ranks = forms.IntegerField(
        required=False,
        label="Number of ranks",
        help_text="Empty: one on each core; of a shell command, one. Not more than there are cores.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    ranks_are = forms.ChoiceField(
        required=False,
        label="These are",
        choices=[("", "in all"), ("node", "on each node")],
        help_text="On each node leaves cores free on all of them, as programs with threads want it.",
    )
    time_limit = forms.IntegerField(
        label="Time limit in minutes", required=False, widget=forms.NumberInput(attrs={"inputmode": "numeric"})
    )
    retries = forms.IntegerField(
        required=False,
        label="Retries",
        help_text="How often a run that failed is tried again. Empty: not.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    retry_delay = forms.IntegerField(
        required=False,
        label="Minutes to the next attempt",
        help_text="Empty: 1.",
        widget=forms.NumberInput(attrs={"inputmode": "numeric"}),
    )
    retry_on_timeout = forms.BooleanField(
        required=False,
        label="Retry also after the time limit",
        help_text="Each attempt has the whole time limit.",
    )
    resumes = forms.BooleanField(
        required=False,
        label="Resume the cluster if it is paused",
        help_text="Without this, a run waits until somebody resumes it.",
    )
    pauses = forms.BooleanField(
        required=False,
        label="Pause the cluster when finished",
        help_text="However the run ends, unless another run waits for the cluster or somebody is on it.",
    )
    field_order: tuple[str, ...] = (
        *("key", "name", "cluster", "resumes", "pauses", "due", "kind", "command", "git_url"),
        *("git_credential", "git_username", "git_password", "reference", "environment"),
        *("ranks", "ranks_are", "time_limit"),
        *("retries", "retry_delay", "retry_on_timeout"),
    )
    ADVANCED: ClassVar[tuple[str, ...]] = (
        *(
            "git_credential",
            "git_username",
            "git_password",
            "reference",
            "environment",
            "ranks",
            "ranks_are",
            "time_limit",
        ),
        *("retries", "retry_delay", "retry_on_timeout"),
    )

    def __init__(self, *args: Any, workspace: Workspace, of: Job | Run | None = None, **kwargs: Any) -> None:
        """`of`: what the form is filled in with, unless `initial` says otherwise."""
        job = of.job if isinstance(of, Run) else of
        on_its_own = (isinstance(of, Run) and of.cluster.dedicated) or (isinstance(of, Job) and of.dedicated)
        self.specification = job.specification if job else None  # of a cluster for each run, as it is
        if of:
            filled = {
                "cluster": OWN if on_its_own and self.specification else of.cluster.uuid if of.cluster else None,
                "command": of.command,
                "git_url": of.git_url,
                "reference": of.reference,
                "time_limit": of.time_limit // 60 if of.time_limit else None,
                "resumes": of.resumes,
                "pauses": of.pauses,
                "environment": of.environment,
                "kind": of.kind,
                "retries": of.retries or None,
                "retry_delay": of.retry_delay // 60 if of.retries else None,
                "retry_on_timeout": of.retry_on_timeout,
                "ranks": of.ranks or of.ranks_per_node,
                "ranks_are": "node" if of.ranks_per_node else "",
            }
            kwargs["initial"] = filled | kwargs.get("initial", {})
        super().__init__(*args, **kwargs)
        self.workspace = workspace
        limit = self.fields["time_limit"]
        limit.help_text = f"The head node ends a run that takes longer. Empty: {span(settings.RUN_SECONDS)}."
        field: Any = self.fields["cluster"]
        own = f"A new one for each run: {self.specification}" if self.specification else ""
        field.offer(workspace, None if on_its_own or not of else of.cluster, own)
        if clouds.Can.PAUSE not in workspace.can:
            del self.fields["resumes"], self.fields["pauses"]
        elif (on_its_own and isinstance(of, Run)) or (of and of.cluster and of.cluster.spot):
            del self.fields["pauses"]  # it is deleted afterwards, or cannot be paused

    @property
    def advanced(self) -> list[forms.BoundField]:
        return [self[name] for name in self.ADVANCED if name in self.fields]

    @property
    def plain(self) -> list[forms.BoundField]:
        return [field for field in self.visible_fields() if field.name not in self.ADVANCED]

    @property
    def is_advanced(self) -> bool:
        """Whether something of it is wrong, or filled in."""
        return any(field.errors or _is_filled(field.value()) for field in self.advanced)

    def clean_kind(self) -> str:
        return self.cleaned_data["kind"] or Kind.PYTHON

    def clean_command(self) -> str:
        return rules.command_of(self.cleaned_data.get("kind", ""), self.cleaned_data["command"])

    def clean_reference(self) -> str:
        return rules.reference(self.cleaned_data["reference"])

    def clean_time_limit(self) -> int | None:
        """In seconds."""
        return rules.time_limit(self.cleaned_data["time_limit"])

    def clean_ranks(self) -> int | None:
        return rules.ranks(self.cleaned_data["ranks"])

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("ranks") and data.get("kind") == Kind.NOTEBOOK:
            self.add_error("ranks", "A notebook runs once: leave this empty.")
        elif data.get("ranks") and (size := self._size(data.get("cluster"))):
            numbers = (None, data["ranks"]) if data.get("ranks_are") == "node" else (data["ranks"], None)
            if why := rules.too_many_ranks(*numbers, **size):
                self.add_error("ranks", why)
        cluster = data.get("cluster")
        if data.get("pauses") and isinstance(cluster, Cluster) and cluster.spot:
            self.add_error("pauses", f"{cluster} has spot nodes, and these cannot be paused.")
        return data

    def _size(self, chosen: Any) -> dict[str, Any] | None:
        """Of the cluster that was chosen. None where that is not known."""
        if isinstance(chosen, Cluster):
            nodes, cores = max(chosen.node_count, chosen.scale_to or 0), chosen.cores_per_node
            return {"nodes": nodes, "cores_per_node": cores, "where": chosen.name}
        wanted = self._wanted_size() if chosen == OWN else None
        if wanted is None:
            return None
        nodes, of = wanted
        return {"nodes": nodes, "cores_per_node": of.cores, "where": f"a cluster of {nodes} × {of.name}"}

    def _wanted_size(self) -> tuple[int, InstanceType] | None:
        """How many nodes, of which type, a cluster of its own is to have."""
        return (self.specification.node_count, self.specification.instance_type) if self.specification else None

    def clean_retries(self) -> int:
        return rules.retries(self.cleaned_data["retries"])

    def clean_retry_delay(self) -> int:
        """In seconds."""
        return rules.retry_delay(self.cleaned_data["retry_delay"])

    @property
    def whereabouts(self) -> dict[str, Any]:
        """On what, and for how long, a `Program` runs. What is not asked is not in it."""
        data = self.cleaned_data
        is_own, on_each = data["cluster"] == OWN, data["ranks_are"] == "node"
        return {
            "cluster": None if is_own else data["cluster"],
            "dedicated": self.specification.kept if is_own and self.specification else None,
            "time_limit": data["time_limit"],
            **{name: data[name] for name in ("resumes", "pauses") if name in self.fields},
            "ranks": None if on_each else data["ranks"],
            "ranks_per_node": data["ranks"] if on_each else None,
        }

    @property
    def wanted(self) -> dict[str, Any]:
        """What a `Program` has, but for its source. What is not asked stays."""
        asked = ("reference", "command", "environment", "kind", "retries", "retry_delay", "retry_on_timeout")
        return self.whereabouts | {name: self.cleaned_data[name] for name in asked}

    def program(self, git_url: str) -> Program:
        return Program(git_url=git_url, **self.wanted)


class EditJobForm(ProgramForm):
    """With `may_build`, the cluster that each run of it has for itself is filled in here too, in `own`."""

    name = forms.CharField(label="Job name", widget=forms.TextInput(attrs={"maxlength": rules.LONGEST_NAME}))
    git_url = forms.CharField(
        label="Path",
        help_text="The repository's Git URL, as the browser's address bar has it; that of a branch, a folder or a file"
        " in it says the reference and the folder too. Or a folder of the workspace's filesystem, such as"
        " /shared/team/project: each run gets a copy of it as it is then, of 1 GB and 20,000 files at most.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "inputmode": "url"}),
    )

    secrets = SecretsField(
        required=False,
        label="Secret environment variables",
        help_text="Their values are kept encrypted, never shown again, and hidden where the program prints them as they"
        " are. Whoever may run jobs here can have a program use them.",
    )
    tags = TagsField(
        required=False,
        label="Tags",
        help_text=f"Short words by which the job is found, at most {rules.MOST_TAGS}.",
    )
    field_order = (*ProgramForm.field_order[:14], "secrets", *ProgramForm.field_order[14:], "tags")
    ADVANCED: ClassVar[tuple[str, ...]] = (*ProgramForm.ADVANCED[:5], "secrets", *ProgramForm.ADVANCED[5:], "tags")

    def __init__(
        self,
        data: Any = None,
        *args: Any,
        of: Job | None = None,
        may_build: bool = False,
        look: str = "",
        **kwargs: Any,
    ) -> None:
        """`look`: `data` is only to be shown again, and in it the cluster to be filled in (`own`) or done with."""
        if of:
            filled = {"name": of.name, "secrets": of.secret_names, "tags": of.tags}
            kwargs["initial"] = filled | kwargs.get("initial", {})
        if look:
            kwargs["initial"] = kwargs.get("initial", {}) | _typed(type(self), data)
        super().__init__(None if look else data, *args, of=of, **kwargs)
        self.job, self.may_build = of, may_build
        if clouds.Can.BUCKET in self.workspace.can:
            self.fields["git_url"].help_text += (
                " Or a folder or file in a bucket, such as s3://BUCKET/team/project: a node copies it, as much at most,"
                " by the rights of the cluster's instance role."
            )
        secrets: Any = self.fields["secrets"]
        secrets.widget.kept = of.secret_names if of else ()
        self.page: rules.Address | None = None  # that was given as the path
        field: Any = self.fields["cluster"]
        chosen = self["cluster"].value()
        if look in ("own", "use"):
            chosen = self.initial["cluster"] = OWN
        elif look == "drop":
            chosen = self.initial["cluster"] = None
        elif chosen is None and not look and may_build and not field.queryset:
            chosen, look = OWN, "own"
            self.initial["cluster"] = OWN
        self.own: OwnClusterForm | None = None
        self.is_open = False  # whether the cluster is being filled in
        if chosen == OWN and may_build:
            field.own = field.own or "A new one for each run"
            self._fill_in(data, look)

    def _fill_in(self, data: Any, look: str) -> None:
        words = self.specification.filled_in if self.specification else {}
        sent = data is not None and any(name.startswith(f"{OwnClusterForm.PREFIX}-") for name in data)
        if sent and look != "own":
            self.own = OwnClusterForm(data, workspace=self.workspace)
            self.is_open = not self.own.is_valid()
        else:
            typed = own_typed(data) if sent else {}
            self.own = OwnClusterForm(workspace=self.workspace, initial=words | typed)
            self.is_open = look == "own" or not words

    @property
    def choice_said(self) -> str:
        """For whoever hears the page."""
        if self.own is None:
            return "A cluster that is there"
        return "A new cluster, to be filled in" if self.is_open else "A new cluster for each run"

    def chosen_specification(self, by: User) -> Specification | None:
        """Of the cluster that is filled in, where that makes sense; of the one that the job has, where none is."""
        own = self.own
        if own is None:
            return self.specification
        if not own.is_bound:
            return None if self.is_open else self.specification
        if not own.is_valid():
            return None
        price = node_price(self.workspace, own.wanted, seen_by=by) if own.wanted else None
        return Specification.of(own.cleaned_data, price)

    def _wanted_size(self) -> tuple[int, InstanceType] | None:
        if self.own is None or not self.own.is_bound:
            return super()._wanted_size()
        typed = self.own.cleaned_data if self.own.is_valid() else {}
        return (typed["node_count"], typed["instance_type"]) if typed else None

    def clean_secrets(self) -> dict[str, str | None]:
        kept = self.job.secret_names if self.job else ()
        return rules.secrets(self.cleaned_data["secrets"], kept, self.cleaned_data.get("environment", ()))

    def clean_name(self) -> str:
        name = rules.name(self.cleaned_data["name"])
        mine = self.job.uuid if self.job else self.cleaned_data.get("key")
        if self.workspace.jobs.live().filter(name__iexact=name).exclude(uuid=mine or uuid4()).exists():
            raise forms.ValidationError("There is a job of this name in the workspace.")
        return name

    def clean_git_url(self) -> str:
        self.page = rules.address(self.cleaned_data["git_url"])
        git_url = self.page.git_url
        if rules.is_bucket(git_url) and clouds.Can.BUCKET not in self.workspace.can:
            raise forms.ValidationError(
                f"Nodes of {self.workspace.cloud_config} have no role by which they could read a bucket of S3. Give a"
                " repository's address, or copy it to /shared and give the path of the folder.",
                code="out_of_reach",
            )
        if repositories.is_example(git_url) and (why := repositories.out_of_reach(self.workspace.cloud_config)):
            raise forms.ValidationError(why, code="out_of_reach")
        return git_url

    def clean(self) -> dict[str, Any]:
        """The address of a page of the repository says the reference and the folder too."""
        data = super().clean() or {}
        page = self.page
        if page and page.reference and "reference" in data:
            if data["reference"] not in ("", page.reference):
                self.add_error(
                    "reference", f"The address leads to {page.reference}. Let both say the same, or leave this empty."
                )
            data["reference"] = page.reference
        if page and rules.is_copied(page.git_url) and data.get("reference"):
            what = "A bucket" if rules.is_bucket(page.git_url) else "A folder"
            self.add_error("reference", f"{what} has no branches, tags and commits: leave this empty.")
        if page and page.path and data.get("kind") == Kind.SHELL:
            self.add_error("git_url", "A shell command begins in the top folder: give the repository's own address.")
        elif page and page.path and "command" in data:
            try:
                data["command"] = rules.in_folder(data["command"], page.path)
            except forms.ValidationError as error:
                self.add_error("command", error)
        return data

    def clean_cluster(self) -> Any:
        cluster = self.cleaned_data["cluster"]
        if cluster == OWN and self.own and self.own.is_bound and not self.own.is_valid():
            name, why = next(iter(self.own.errors.items()))
            label = f"{self.own[name].label}: " if name in self.own.fields else ""
            raise forms.ValidationError(f"The new cluster. {label}{why[0]}")
        if cluster == OWN and self.own and not self.own.is_bound and self.is_open:
            raise forms.ValidationError("Fill in the new cluster, or choose one that is there.")
        return cluster


class OwnClusterForm(ClusterForm):
    """Of a cluster that each run of a job has for itself: a name it gets, and timers it has none."""

    PREFIX: ClassVar = "own"
    LACKS: ClassVar = ("key", "name", "auto_pause", "auto_shutdown", "description", "auto_repair")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, prefix=self.PREFIX, **kwargs)
        for name in self.LACKS:
            self.fields.pop(name, None)
        self.starts = []


def own_typed(data: Any) -> dict[str, Any]:
    return typed(data, whole=False, prefix=OwnClusterForm.PREFIX)


def _typed(form: type[forms.Form], data: Any) -> dict[str, Any]:
    """What was typed, but a password, to be shown again."""
    return {
        name: field.widget.value_from_datadict(data, {}, name)
        for name, field in form.base_fields.items()
        if name != "git_password" and not field.widget.value_omitted_from_data(data, {}, name)
    }


class JobForm(EditJobForm, CredentialForm):
    """Of a new job."""

    due = DueField(
        required=False,
        label="Schedule",
        error_messages={"invalid": "Give a day and a time, such as 2026-12-31 17:30."},
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer_credentials(self.workspace)
        self.fields["due"].help_text = f"When it begins, by the time of {get_current_timezone_name()}. Empty: now."


class DaysField(forms.CharField):
    """Excluded days, one or several a line, as `jobs.calendar` has them."""

    widget = forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "class": "mono"})

    def prepare_value(self, value: Any) -> Any:
        return calendar.written(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        try:
            return calendar.read(super().clean(value))
        except calendar.NoDays as error:
            raise forms.ValidationError(str(error)) from error


class CalendarForm(forms.Form):
    days = DaysField(
        label="Excluded days",
        required=False,
        max_length=20_000,
        help_text="A line each: 2026-12-25 Christmas, or 2026-12-24 to 2027-01-01 Holidays.",
    )


class ScheduleForm(OnceForm):
    """When runs of a job begin by themselves, and what becomes of the times at which they cannot."""

    cron = forms.CharField(
        label="When",
        max_length=200,
        help_text="Minute, hour, day of the month, month, day of the week; * is any. 0 9 * * 1-5 is each weekday at"
        " 09:00, */15 * * * * each quarter of an hour, 30 6 1 * * each first of a month at 06:30.",
        widget=forms.TextInput(
            attrs={"spellcheck": "false", "autocomplete": "off", "class": "mono", "list": "cron-examples"}
        ),
    )
    zone = forms.ChoiceField(
        label="Time zone", help_text="By the clocks there. What their changes do to it is shown beside."
    )
    most_runs = forms.IntegerField(
        label="Runs of it at once",
        min_value=1,
        max_value=10,
        initial=1,
        help_text="1 to 10 that have not ended, whether they run or wait for their cluster.",
    )
    overlap = forms.ChoiceField(label="When as many have not ended", choices=Schedule.Overlap.choices)
    missed = forms.ChoiceField(
        label="What was missed while the portal was away",
        choices=Schedule.Missed.choices,
        help_text="A time is missed when nobody came to it for five minutes, or until after the next one.",
    )
    excluded = DaysField(
        label="Not on these days",
        required=False,
        max_length=20_000,
        help_text="A line each: 2026-12-25 Christmas, or 2026-12-24 to 2027-01-01 Holidays.",
    )
    heeds_calendar = forms.BooleanField(label="Nor on the excluded days of the workspace", required=False, initial=True)
    field_order = ("key", "cron", "zone", "most_runs", "overlap", "missed", "excluded", "heeds_calendar")
    RULES: ClassVar = ("most_runs", "overlap", "missed", "excluded", "heeds_calendar")

    def __init__(self, *args: Any, reader: Any, of: Schedule | None = None, **kwargs: Any) -> None:
        if of:
            filled = {name: getattr(of, name) for name in ("cron", "zone", *self.RULES)}
            kwargs["initial"] = filled | kwargs.get("initial", {})
        super().__init__(*args, **kwargs)
        zone: Any = self.fields["zone"]
        also = {of.zone} if of else set()
        zone.choices = [(name, name.replace("_", " ")) for name in [*zones(), *sorted(also - set(zones()))]]
        self.initial.setdefault("zone", reader.time_zone if reader.time_zone in zones() else "UTC")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if "cron" in data and "zone" in data:
            try:
                self.clock = Cron.read(data["cron"], data["zone"])
            except NotCron as error:
                self.add_error("cron", str(error))
        if data.get("missed") == Schedule.Missed.ALL and data.get("overlap") != Schedule.Overlap.QUEUE:
            self.add_error("missed", "Runs that are made up for come all at once. Let them wait until there is room.")
        return data

    @property
    def rules(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in self.RULES}


class MailForm(forms.Form):
    """Of what the person who made a job is mailed."""

    failure = forms.BooleanField(required=False, label="When a run has FAILED")
    success = forms.BooleanField(required=False, label="When a run is FINISHED")
    slow = forms.BooleanField(required=False, label="When a run takes twice as long as usual")


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
    """Of the jobs of a workspace."""

    tag = forms.CharField(
        max_length=rules.LONGEST_TAG,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "Tag", "aria-label": "Tag", "autocapitalize": "none"}),
    )
    sort = forms.ChoiceField(
        choices=[("", "Ran last"), ("name", "Name")], required=False, widget=forms.Select(attrs={"aria-label": "Order"})
    )

    @property
    def asked(self) -> dict[str, Any]:
        """Of what is filled in; the form has been found valid."""
        cluster = self.chosen.pk if self.chosen else None
        asked = {"q": self.cleaned_data["q"], "tag": rules.tag_of(self.cleaned_data["tag"]), "cluster": cluster}
        return {name: value for name, value in asked.items() if value}

    @staticmethod
    def narrow(rows: JobQuerySet, workspace: int, asked: Mapping[str, Any]) -> JobQuerySet:
        if "q" in asked:
            rows = rows.filter(name__icontains=asked["q"])
        if "tag" in asked:
            rows = rows.tagged(workspace, asked["tag"])
        return rows.filter(cluster=asked["cluster"]) if "cluster" in asked else rows


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

    @property
    def asked(self) -> dict[str, Any]:
        """Of what is filled in; the form has been found valid."""
        said = self.cleaned_data
        asked = {said["status"] if said["status"] in ("going", "needs") else "status": said["status"]}
        asked["who"] = said["who"]
        asked["since"] = now() - timedelta(days=int(said["days"])) if said["days"] else None
        return {name: value for name, value in asked.items() if value}

    @staticmethod
    def narrow(rows: RunQuerySet, asked: Mapping[str, Any]) -> RunQuerySet:
        """Each of these, and the order by number in the database, is a piece of an index."""
        if "going" in asked:
            rows = rows.unfinished()
        if "needs" in asked:
            rows = rows.filter(needs_you=True)
        if "status" in asked:
            rows = rows.filter(status=asked["status"])
        if "who" in asked:
            rows = rows.filter(started_by=Subquery(User.objects.filter(uuid=asked["who"]).values("pk")))
        if "cluster" in asked:
            rows = rows.filter(cluster=asked["cluster"])
        return rows.since(asked["since"]) if "since" in asked else rows


class RunFilterForm(RunsFilterForm, FilterForm):
    """Of the runs of a workspace."""

    job = forms.UUIDField(required=False, widget=forms.HiddenInput)
    field_order = ("q", "status", "cluster", "who", "days", "sort")

    @property
    def asked(self) -> dict[str, Any]:
        return super().asked | ({"cluster": self.chosen.pk} if self.chosen else {})
