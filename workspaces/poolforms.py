from __future__ import annotations

import ipaddress
import posixpath
import re
from typing import Any
from uuid import UUID

from django import forms

from portal import reach
from portal.clouds.machines.models import SSH, Computer, Pool
from workspaces.forms import OnceForm
from workspaces.models import CloudConfig
from workspaces.pools import MOST_AT_ONCE

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")  # RFC 1123
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")  # as useradd(8) takes them, and names of directories
_FOLDER = re.compile(r"(/[A-Za-z0-9._+-]+)+")
_SYSTEM = (
    *("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "lost+found", "proc", "root", "run", "sbin", "sys", "usr"),
    *("tmp", "var"),
)
_PARENTS = ("/home", "/mnt", "/media", "/opt", "/srv")  # of which no folder's own contents are ours


def base_folder(text: str) -> str:
    """The folder of a pool, as it is written once. Raises `ValidationError`."""
    path = text.strip()
    if not path.startswith("/"):
        raise forms.ValidationError("Write the whole path, beginning with /.")
    path = posixpath.normpath(path)
    if not _FOLDER.fullmatch(path) or ".." in text.split("/"):
        raise forms.ValidationError("Use letters, digits and . _ + - in the names of folders, and no “..”.")
    first = path.split("/")[1]
    if first in _SYSTEM and not path.startswith("/var/lib/"):
        raise forms.ValidationError(f"/{first} belongs to the system. Choose a folder on the shared filesystem.")
    if path in _PARENTS or posixpath.dirname(path) == "/home" or path == "/var/lib":
        raise forms.ValidationError("Choose a folder inside of it, which is for the portal alone.")
    return path


def place_of(line: str) -> tuple[str, int]:
    """Address and port of `host`, `host:port`, `[IPv6]` or `[IPv6]:port`. Raises `ValidationError`."""
    text = line.strip().lower()
    address, port = text, ""
    if text.startswith("["):
        address, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise forms.ValidationError(f"{line}: write [address]:port.")
        port = rest[1:]
        if rest == ":":
            raise forms.ValidationError(f"{line}: no port after the colon.")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        if not port:
            raise forms.ValidationError(f"{line}: no port after the colon.")
    elif ":" in text:
        raise forms.ValidationError(f"{line}: write an IPv6 address in brackets, like [fd00::7].")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise forms.ValidationError(f"{line}: {port} is no port.")
    return _address(address, line), int(port or SSH)


def _address(text: str, line: str) -> str:
    try:
        found = str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        pass
    else:
        if why := reach.why_not(found):
            raise forms.ValidationError(f"{line}: {why}.")
        return found
    labels = text.rstrip(".").split(".")
    if len(text) > 253 or not all(len(label) < 64 and _LABEL.fullmatch(label) for label in labels):
        raise forms.ValidationError(f"{line}: that is neither a host name nor an address.")
    if _NUMBER.fullmatch(labels[-1]):  # resolvers take the likes of 0x7f000001 for one
        raise forms.ValidationError(f"{line}: that is no IPv4 address.")
    if labels[-1] == "localhost":
        raise forms.ValidationError(f"{line}: that is no name by which other computers are reached.")
    return text.rstrip(".")


class PoolForm(OnceForm):
    name = forms.CharField(
        max_length=40,
        help_text="Small letters, digits and -. Workspaces choose it, so it cannot be changed later.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false", "class": "w-m"}),
    )
    user = forms.CharField(
        label="Account",
        max_length=32,
        help_text="The user on the computers as whom the portal signs in, and programs run. Best one that nobody else "
        "uses; never root.",
        widget=forms.TextInput(
            attrs={"autocapitalize": "none", "spellcheck": "false", "autocomplete": "off", "class": "w-m"}
        ),
    )
    base = forms.CharField(
        label="Base folder",
        max_length=250,
        help_text="A folder on the filesystem that all of them share, such as /shared/coxswain. The account must be "
        "able to write in it, or in the one it lies in. What the portal makes lies below it, and nowhere else.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false", "autocomplete": "off"}),
    )

    alone = forms.BooleanField(
        label="For one workspace alone",
        required=False,
        help_text="Then what that one has is kept from all others. Otherwise workspaces of the pool share the account, "
        "and can read what the others have.",
    )

    def __init__(self, *args: Any, config: CloudConfig, like: Pool | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config, self.like = config, like

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if self.like and data.get("user") == self.like.user:
            self.add_error("user", f"The pool {self.like} has this account. Name another one of these computers.")
        return data

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"].lower()
        if not _LABEL.fullmatch(name):
            raise forms.ValidationError("Use small letters, digits and -, and begin and end with a letter or a digit.")
        if self.is_taken(Pool.objects.filter(account=self.config.uuid), name):
            raise forms.ValidationError("There is a pool of this name.")
        return name

    def clean_user(self) -> str:
        user: str = self.cleaned_data["user"]
        if user == "root":
            raise forms.ValidationError("Not root: what runs there could do anything. Make an account for the portal.")
        if not _USER.fullmatch(user):
            raise forms.ValidationError("That is no name of an account: small letters, digits and . _ -.")
        return user

    def clean_base(self) -> str:
        return base_folder(self.cleaned_data["base"])


class AddComputersForm(forms.Form):
    """One computer a line."""

    places = forms.CharField(
        label="Computers",
        max_length=30_000,
        help_text=f"One a line, at most {MOST_AT_ONCE}: a name or an address by which the portal reaches it, with "
        ":port where SSH is not at 22. IPv6 in brackets.",
        widget=forms.Textarea(
            attrs={
                "rows": 6,
                "placeholder": "n1.example.org\n10.0.0.12\n[fd00::13]:2222",
                "spellcheck": "false",
                "autocapitalize": "none",
                "class": "mono",
            }
        ),
    )

    def clean_places(self) -> list[tuple[str, int]]:
        lines = [line for line in self.cleaned_data["places"].splitlines() if line.strip()]
        if len(lines) > MOST_AT_ONCE:
            raise forms.ValidationError(f"These are {len(lines)} lines. Add {MOST_AT_ONCE} at a time.")
        found, errors = [], []
        for line in lines:
            try:
                found.append(place_of(line))
            except forms.ValidationError as error:
                errors.append(error)
        if errors:
            raise forms.ValidationError(errors[:5])
        return list(dict.fromkeys(found))


def chosen_keys(values: list[str]) -> list[tuple[UUID, str]]:
    """What the ticked boxes say: the computer, and the fingerprint that was on the page beside it."""
    found = []
    for value in values[:MOST_AT_ONCE]:
        uuid, _, fingerprint = value.partition(" ")
        try:
            found.append((UUID(uuid), fingerprint))
        except ValueError:
            continue  # no page of ours says that
    return found


class ComputerFilterForm(forms.Form):
    q = forms.CharField(
        max_length=60,
        required=False,
        widget=forms.TextInput(
            attrs={"type": "search", "placeholder": "Find by name or address", "aria-label": "Find by name or address"}
        ),
    )
    state = forms.ChoiceField(
        choices=[
            ("", "Any status"),
            ("free", "Free"),
            ("taken", "In use"),
            ("refused", "Refused"),
            ("away", "Away"),
            ("disabled", "Disabled"),
        ],
        required=False,
        widget=forms.Select(attrs={"aria-label": "Status"}),
    )

    def finds(self, computer: Computer) -> bool:
        asked = self.cleaned_data
        found = asked["q"].lower()
        if found not in computer.hostname.lower() and found not in computer.where.lower():
            return False
        match asked["state"]:
            case "":
                return True
            case "free":
                return computer.is_free
            case "taken":
                return computer.is_busy
            case "disabled":
                return computer.is_disabled
            case state:
                return bool(computer.state == state)
