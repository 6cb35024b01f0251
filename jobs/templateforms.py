"""Forms of templates: what one is, and a job of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar
from uuid import uuid4

from django import forms

from jobs import parameters, rules
from jobs.actions import Program
from jobs.forms import EditJobForm, JobForm
from jobs.models import Job, Template
from jobs.parameters import Parameter, Type

# What a template has of a job.
PROGRAM = tuple(name for name in Program.__dataclass_fields__ if name != "cluster")


class ParameterForm(forms.Form):
    """A row. Empty, it is none."""

    name = forms.CharField(required=False, max_length=40, widget=forms.TextInput(attrs={"spellcheck": "false"}))
    type = forms.ChoiceField(choices=Type.choices, required=False)
    default = forms.CharField(required=False, label="Usual value", strip=False)
    choices = forms.CharField(
        required=False, label="Choices", help_text="With commas between; of a number, the least and the most: 1, 64."
    )
    help = forms.CharField(required=False, max_length=200, label="Help")
    parameter: Parameter | None = None  # that it is, once it is found to be valid

    def clean_name(self) -> str:
        text: str = self.cleaned_data["name"]
        return parameters.name(text) if text.strip() else ""

    def clean_default(self) -> str:
        return parameters.value(self.cleaned_data["default"])

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        self.parameter = None
        if self.errors or not data["name"]:
            if not self.errors and any(data[name] for name in ("default", "choices", "help")):
                self.add_error("name", "Give it a name.")
            return data
        kind = data["type"] or Type.TEXT
        try:
            found = parameters.choices(data["choices"])
            made = Parameter(data["name"], kind, data["help"], data["default"])
            if kind == Type.CHOICE:
                made = Parameter(data["name"], kind, data["help"], data["default"] or next(iter(found), ""), found)
                if not found:
                    self.add_error("choices", "Give what may be chosen, with commas between.")
            elif kind in (Type.WHOLE, Type.DECIMAL) and found:
                least, most = parameters.bounds(found, whole=kind == Type.WHOLE)
                made = Parameter(data["name"], kind, data["help"], data["default"], (), least, most)
            if not self.errors:
                self._check_default(made)
        except forms.ValidationError as error:
            self.add_error("choices", error)
        else:
            self.parameter = made
        return data

    def _check_default(self, made: Parameter) -> None:
        if made.type == Type.SECRET and made.default:
            self.add_error("default", "Everybody would see it here: leave it empty.")
        elif made.default:
            try:
                field_of(made).clean(_initial(made))
            except forms.ValidationError as error:
                self.add_error("default", error)


class _Parameters(forms.BaseFormSet):  # type: ignore[type-arg]
    def clean(self) -> None:
        names = [form.parameter.name for form in self.forms if form.parameter]
        for form in self.forms:
            if form.parameter and names.count(form.parameter.name) > 1:
                form.add_error("name", f"{form.parameter.name} is there twice.")

    @property
    def parameters(self) -> list[Parameter]:
        return [form.parameter for form in self.forms if form.parameter]


EMPTY = 2  # rows at the end


def parameters_form(data: Any, of: Template | None) -> Any:
    """The rows of a template's parameters, as a formset: `parameters` are what was filled in."""
    kind = forms.formset_factory(
        ParameterForm, formset=_Parameters, extra=EMPTY, max_num=parameters.MOST, absolute_max=parameters.MOST + EMPTY
    )
    rows = []
    for kept in of.parameters if of else ():
        one = Parameter.read(kept)
        bounds = [one.least, one.most] if one.least or one.most else list(one.choices)
        rows.append(
            {"name": one.name, "type": one.type, "default": one.default, "choices": ", ".join(bounds), "help": one.help}
        )
    return kind(data, prefix="p", initial=rows)


class TemplateForm(EditJobForm):
    """What jobs of it run, with places for its parameters; on what, is chosen when one is made."""

    description = forms.CharField(
        required=False, max_length=2000, widget=forms.Textarea(attrs={"rows": 2}), help_text="For whoever uses it."
    )
    field_order = ("key", "name", "description", *EditJobForm.field_order[2:])
    LACKS: ClassVar = ("cluster", "resumes", "pauses", "secrets", "tags")

    def __init__(self, *args: Any, template: Template | None = None, of: Job | None = None, **kwargs: Any) -> None:
        self.template = template
        if template:
            kwargs["initial"] = {"description": template.description} | kwargs.get("initial", {})
        self.base = template.job if template else of  # what of a job this form does not ask for
        super().__init__(*args, of=self.base, **kwargs)
        for name in self.LACKS:
            self.fields.pop(name, None)
        self.fields["name"].label = "Template name"
        self.fields["command"].help_text = (
            "As a job has it. {name} stands for the value of that parameter, within one argument; a shell command has"
            " its parameters as variables: $NAME."
        )
        self.fields["reference"].help_text = "Branch, tag or commit, or the {name} of a parameter."

    def clean_name(self) -> str:
        name = rules.name(self.cleaned_data["name"])
        mine = self.template.uuid if self.template else self.cleaned_data.get("key") or uuid4()
        if self.workspace.templates.live().filter(name__iexact=name).exclude(uuid=mine).exists():
            raise forms.ValidationError("There is a template of this name in the workspace.")
        return name

    @property
    def program_values(self) -> dict[str, Any]:
        """What a template keeps of a job: what is not asked is as it was, or as in a new one."""
        base = self.base or Job()
        self.cleaned_data["cluster"] = None
        asked = self.wanted | {"git_url": self.cleaned_data["git_url"], "dedicated": base.dedicated}
        return {name: asked.get(name, getattr(base, name)) for name in PROGRAM}

    def add_wrong(self, wrong: dict[str, str]) -> None:
        """Says at a field of this form what `parameters.check` found there."""
        for name in ("command", "reference", "environment"):
            if name in wrong:
                self.add_error(name, wrong[name])


def field_of(one: Parameter) -> forms.Field:
    """What its value is typed in."""
    about: dict[str, Any] = {"label": one.name, "help_text": one.help, "initial": _initial(one)}
    bounds: dict[str, Any] = {"min_value": one.least, "max_value": one.most}
    match one.type:
        case Type.WHOLE:
            return forms.IntegerField(**about | {name: int(text) for name, text in bounds.items() if text})
        case Type.DECIMAL:
            about |= {"max_digits": parameters.DIGITS, "decimal_places": parameters.PLACES}
            return forms.DecimalField(**about | {name: Decimal(text) for name, text in bounds.items() if text})
        case Type.CHOICE:
            return forms.ChoiceField(**about, choices=[(text, text) for text in one.choices])
        case Type.SWITCH:
            return forms.BooleanField(**about, required=False)
        case Type.SECRET:
            return forms.CharField(
                **about, required=False, strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"})
            )
    return _TextField(**about, required=False)


class _TextField(forms.CharField):
    def clean(self, value: Any) -> str:
        return parameters.value(super().clean(value))


def _initial(one: Parameter) -> Any:
    return one.default.lower() in ("true", "yes", "1") if one.type == Type.SWITCH else one.default or None


class FromTemplateForm(JobForm):
    """A job of a template: its name, its parameters, and on what it runs. What else it is, the template says."""

    KEEPS: ClassVar = (
        *("key", "name", "cluster", "resumes", "pauses", "due", "git_credential", "git_username", "git_password"),
        *("ranks", "ranks_are", "time_limit", "tags"),
    )

    def __init__(self, data: Any = None, *, template: Template, look: str = "", **kwargs: Any) -> None:
        self.template = template
        self.parameters = [Parameter.read(kept) for kept in template.parameters]
        url = template.program["git_url"]
        super().__init__(data, of=template.job, git_url=url, look=look, **kwargs)
        self.job = None
        for name in set(self.fields) - set(self.KEEPS):
            del self.fields[name]
        for one in self.parameters:
            name = f"p-{one.name}"
            field = self.fields[name] = field_of(one)
            if look and one.type != Type.SECRET:  # what was typed is shown again
                self.initial[name] = field.widget.value_from_datadict(data, {}, name)
        self.order_fields(["key", "name", *(f"p-{one.name}" for one in self.parameters), *self.KEEPS[2:]])

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if self.data.get("version", self.template.version) != self.template.version:
            self.add_error(
                None, "The template was changed since you opened it: look at what it runs now, and create the job then."
            )
        self.values = {one.name: parameters.as_text(data.get(f"p-{one.name}")) for one in self.parameters}
        if not self.errors:
            try:
                self.bound, self.secret_values = parameters.bind(self.parameters, self.template.program, self.values)
            except forms.ValidationError as error:
                self.add_error(None, f"With these values it cannot be run. {error.messages[0]}")
        return data

    @property
    def wanted(self) -> dict[str, Any]:
        return {name: value for name, value in self.bound.items() if name != "git_url"} | self.whereabouts

    @property
    def shown_values(self) -> dict[str, str]:
        """Those that may be seen."""
        return {one.name: self.values[one.name] for one in self.parameters if one.type != Type.SECRET}
