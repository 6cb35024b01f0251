"""What a job may be: a function for each field, which returns the value as it is kept or says what is wrong with it.

For whoever takes a job in, by a form or otherwise. They raise `ValidationError` with a sentence for people and a code
for programs.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import SplitResult, unquote, urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError

from portal.environment import is_loopback
from portal.forms import JOINERS

LONGEST_NAME, LONGEST_COMMAND, LONGEST_URL, LONGEST_REFERENCE = 80, 4000, 500, 200  # characters
MOST_MINUTES = 60 * 24 * 365
MOST_DAYS_AHEAD = 3653
MOST_RANKS = 100_000
MOST_RETRIES = 20
MOST_TAGS, LONGEST_TAG = 10, 30  # of a job; characters
SHORTEST_SECRET = 4  # bytes: as jobs/onnode/hiding.py
MOST_VARIABLES = 100
MOST_ENVIRONMENT = 32_000  # bytes: it is handed on in one argument

# What leads to programs and libraries, is the launcher's, or the portal's and Bodo's own.
_RESERVED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|IFS|ENV|BASH_ENV|BASH_FUNC.*|LD_.*|PYTHON(PATH|HOME|STARTUP|INSPECT|EXECUTABLE)"
    r"|(GIT|SSH|HYDRA|HYDI|PMI|PMIX|MPI|MPIR|MPIEXEC|MPICH|COXSWAIN|BODO_PLATFORM)(_.*)?",
    re.IGNORECASE,
)

# What git-check-ref-format(1) forbids; `jobs/onnode/source.py` asks again where git is called.
_NO_REFERENCE = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^-|^@$")

# A word as it was typed, with its quotes; and those that a shell would not hand on.
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", re.DOTALL)
# What is quoted, and else the end of a line behind a backslash.
_PIECE = re.compile(r"""(?P<kept>"(?:[^"\\]|\\.)*"|'[^']*'|\\[^\n])|\\\n""", re.DOTALL)
_OPERATOR = re.compile(r"\d*(?:&&|\|\|?|&>|[<>]+&?|[;&])|`|\$\(")
_OPERATOR_LAST = re.compile(r"(?<!\\)(?:&&|\|\||[|;&<>])$")
_SCP = re.compile(r"(?P<at>[\w.-]+@[\w.-]+):(?P<path>(?!//)\S+)")  # git@host:path, as servers offer it for copying
_WITH_VALUE = {"-X", "-W", "--check-hash-based-pycs"}  # options of Python whose value is a word of its own


def name(text: str) -> str:
    """Of a job. No characters that cannot be seen: one that turns the direction of writing turns the page around it."""
    text = text.strip()
    if not text:
        raise ValidationError("Give the job a name.", code="required")
    if len(text) > LONGEST_NAME:
        raise ValidationError(f"A name has at most {LONGEST_NAME} characters, this has {len(text)}.", code="too_long")
    unseen = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    if any(unicodedata.category(one) in unseen and one not in JOINERS for one in text):
        raise ValidationError("A name cannot have characters in it that cannot be seen.", code="invisible")
    return text


def tag_of(text: str) -> str:
    """As it is kept and looked for, however its letters and their marks were typed."""
    return unicodedata.normalize("NFC", text.lower())


def tags(text: str) -> list[str]:
    """Of a job, by which it is found: words with spaces or commas between them, in small letters, each once."""
    words = list(dict.fromkeys(tag_of(text).replace(",", " ").split()))
    if len(words) > MOST_TAGS:
        raise ValidationError(f"At most {MOST_TAGS} tags; these are {len(words):,}.", code="too_many")
    for word in words:
        letters = "".join(one for one in word if not unicodedata.category(one).startswith("M"))  # without their marks
        if not re.fullmatch(r"\w[\w.:-]*", letters):
            raise ValidationError(
                f"“{word[:LONGEST_TAG]}” is no tag: it has letters, digits, and . : - _ within.", code="no_tag"
            )
        if len(word) > LONGEST_TAG:
            raise ValidationError(
                f"A tag has at most {LONGEST_TAG} characters, “{word[:LONGEST_TAG]}…” has {len(word)}.", code="too_long"
            )
    return words


def command(text: str) -> str:
    """A Python file of the repository, or a module after -m, with its arguments, quoted as for a shell."""
    text = _one_line(text)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValidationError(f"A shell could not split this: {error}.", code="quotes") from error
    if not words:
        raise ValidationError("Name a Python file of the repository.", code="required")
    if words[0] in {"python", "python3", "mpiexec", "mpirun"}:
        raise ValidationError(
            f"Leave out “{words[0]}”: the portal puts “mpiexec -n CORES python” in front.", code="prefix"
        )
    if re.match(r"[A-Za-z_]\w*=", words[0]):
        raise ValidationError(
            f"“{words[0]}” is for a shell, and none runs the command: name a Python file first.", code="shell"
        )
    for word in _WORD.findall(text):
        if operator := _OPERATOR.match(word) or _OPERATOR_LAST.search(word):
            raise ValidationError(
                f"“{operator.group()}” is for a shell, and none runs the command: it would be an argument of the"
                " program. Leave it out; or put quotes around it if the program is to have it.",
                code="shell",
            )
    if not _names_a_program(words):
        raise ValidationError(
            f"“{words[0]}” does not look like a Python file. Name one that ends in .py; write ./{words[0].lstrip('./')}"
            " if it has another ending, or -m before the name of a module.",
            code="no_python_file",
        )
    return text


def shell_command(text: str) -> str:
    """For /bin/sh, which begins in the repository's top folder."""
    text = _one_argument(text)
    if not text:
        raise ValidationError("Give the command.", code="required")
    return text


def notebook(text: str) -> str:
    """A notebook of the repository, and parameters of it as papermill has them: -p NAME VALUE, or -r for a text."""
    text = _one_line(text)
    try:
        path, *rest = shlex.split(text) or [""]
    except ValueError as error:
        raise ValidationError(f"A shell could not split this: {error}.", code="quotes") from error
    if not path:
        raise ValidationError("Name a notebook of the repository.", code="required")
    if not path.endswith(".ipynb") or path.startswith("-") or "://" in path:
        raise ValidationError(
            f"“{path[:80]}” is no notebook of the repository. Name one that ends in .ipynb.", code="no_notebook"
        )
    for at in range(0, len(rest), 3):
        option, *pair = rest[at : at + 3]
        if option not in {"-p", "-r"}:
            raise ValidationError(
                f"“{option[:80]}” is not understood: after the notebook come its parameters, each as -p NAME VALUE, or"
                " -r NAME VALUE for a value that is a text whatever it looks like.",
                code="option",
            )
        if len(pair) != 2 or not pair[0].isidentifier():
            raise ValidationError(f"{option} wants the name of a variable and a value.", code="parameter")
    return text


def command_of(kind: str, text: str) -> str:
    """As a job of this `models.Kind` has it."""
    return {"shell": shell_command, "ipynb": notebook}.get(kind, command)(text)


def _one_argument(text: str) -> str:
    text = text.replace("\r\n", "\n").strip()  # as browsers send lines
    if len(text) > LONGEST_COMMAND:
        raise ValidationError(
            f"A command has at most {LONGEST_COMMAND:,} characters, this has {len(text):,}.", code="too_long"
        )
    if "\0" in text:
        raise ValidationError("A command cannot contain a NUL character.", code="nul")
    return text


def _one_line(text: str) -> str:
    """As a shell reads it: a backslash at the end of a line goes on with it. Other lines would be other commands."""
    text = _PIECE.sub(lambda piece: piece["kept"] or "", _one_argument(text))
    if "\n" in _PIECE.sub("", text):
        raise ValidationError(
            "No shell runs this, so it has one line: write it in one, or choose Shell command as the type.",
            code="lines",
        )
    return text


def _names_a_program(words: list[str]) -> bool:
    """Whether Python would find a program in these: a file, -m MODULE or -c CODE, after its own options."""
    rest = iter(words)
    for word in rest:
        if word in {"-m", "-c"}:
            return next(rest, None) is not None
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return word.endswith((".py", ".pyz", ".pyc")) or "/" in word
    return False


def is_shared(source: str) -> bool:
    """Whether it is a folder of the workspace's filesystem, and no repository's address."""
    return source.startswith("/")


def is_bucket(source: str) -> bool:
    """Whether it is the address of what is in a bucket of S3."""
    return source.startswith("s3://")


def is_copied(source: str) -> bool:
    """Whether a run copies it as it is then: it has no history."""
    return is_shared(source) or is_bucket(source)


def bucket_of(source: str) -> str:
    """Its name."""
    return source.removeprefix("s3://").partition("/")[0]


_BUCKET = re.compile(r"(?!.*\.\.)(?![\d.]+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def _in_a_bucket(url: str) -> str:
    """A slash at its end says that it is a folder. `jobs/onnode/bucket.py` looks which keys there are."""
    name, _, key = url.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(name):
        raise ValidationError(
            f"“{name[:80]}” is no name of a bucket: write s3://BUCKET/FOLDER, or s3://BUCKET/FOLDER/FILE.",
            code="no_bucket",
        )
    _check_plain(key.removesuffix("/").split("/") if key else ())
    if not url.isprintable():
        raise ValidationError("This is not a path.", code="not_plain")
    return url


def _check_plain(names: Sequence[str]) -> None:
    if any(name in ("", ".", "..") for name in names):
        raise ValidationError("Write the path without “.”, “..” and empty names in it.", code="not_plain")


def _shared(path: str) -> str:
    """`jobs/onnode/shared.py` looks where links in it lead."""
    names = path.split("/")[1:]
    if names[0] != "shared" or len(names) < 2:
        raise ValidationError("A folder of the workspace's filesystem begins with /shared/.", code="not_shared")
    _check_plain(names)
    if names[1].startswith("."):
        raise ValidationError(f"/shared/{names[1]} is the portal's own.", code="not_shared")
    if not path.isprintable():
        raise ValidationError("This is not a path.", code="not_plain")
    return path


def git_url(text: str) -> str:
    """The address of a repository: https, ssh, or http on this machine where a setting allows it. Or a folder's path
    in /shared; or of a file or folder in a bucket, which not every kind of cloud can read."""
    url = text.strip()
    if len(url) > LONGEST_URL:
        raise ValidationError(f"An address has at most {LONGEST_URL} characters, this has {len(url)}.", code="too_long")
    if url[:5].lower() == "s3://":
        return _in_a_bucket(f"s3://{url[5:]}")
    url = url.rstrip("/")
    if is_shared(url):
        return _shared(url)
    if re.search(r"\s", url) or not url.isprintable() or url.startswith("-"):
        raise ValidationError("This is not a web address.", code="no_address")
    try:
        parts = urlsplit(url)
        here = parts.scheme == "http" and is_loopback(parts.hostname) and settings.GIT_FROM_THIS_MACHINE
        bad_port = parts.port == 0
    except ValueError as error:
        raise ValidationError("This is not a web address.", code="no_address") from error
    if not (parts.scheme in {"https", "ssh"} or here) or not parts.hostname or bad_port:
        raise ValidationError(_begin_with(url, parts), code="scheme")
    if parts.netloc.startswith("-") or parts.hostname.startswith("-"):
        raise ValidationError("No server has a name that begins with a dash.", code="no_server")
    if parts.password or (parts.username and parts.scheme != "ssh"):
        raise ValidationError("Leave the user name and password out of the address.", code="password")
    if not parts.path.strip("/"):
        raise ValidationError(
            f"{url} names a server and no repository: give the whole address, such as {url}/team/project.",
            code="no_repository",
        )
    return url


@dataclass(frozen=True)
class Address:
    """What the address of a page of a repository says: where that is, and what of it the page shows."""

    git_url: str
    reference: str = ""
    path: str = ""  # of a folder, or of a file


# As GitHub, GitLab and Gitea, and Bitbucket write it. A branch with a slash in it cannot be told from a folder.
_PAGE = re.compile(
    r"(?P<repository>/.+?/[^/]+?)(?:/-)?/(?:tree|blob|raw|commits?|src(?:/(?:branch|tag|commit))?)/"
    r"(?P<reference>[^/?#]+)(?:/(?P<path>[^?#]*))?"
)


def address(text: str) -> Address:
    """As `git_url`, of a repository or of a page of one that shows a branch, a folder or a file."""
    url = git_url(text)
    parts = urlsplit(url)
    page = _PAGE.fullmatch(parts.path) if parts.scheme in ("https", "http") else None
    if not page:
        return Address(parts._replace(query="", fragment="").geturl() if parts.scheme == "https" else url)
    there = parts._replace(path=page["repository"], query="", fragment="").geturl()
    return Address(git_url(there), reference(unquote(page["reference"])), unquote(page["path"] or "").strip("/"))


def in_folder(text: str, path: str) -> str:
    """The command, with its file where the address of a page has said that it is; as it is where it says so itself."""
    words = shlex.split(text)
    at = next((n for n, word in enumerate(words) if not word.startswith("-")), None)
    if not path or at != 0 or words[0].startswith((path.rpartition("/")[0] or path, "/")):
        return text
    is_file = path.endswith((".py", ".pyz", ".pyc", ".ipynb"))
    if is_file and path.rpartition("/")[2] != words[0]:
        raise ValidationError(
            f"The address leads to the file {path}, and the command names {words[0]}. Let both name the same.",
            code="two_files",
        )
    return shlex.join([path if is_file else f"{path}/{words[0]}", *words[1:]])


def _begin_with(url: str, parts: SplitResult) -> str:
    if scp := _SCP.fullmatch(url):
        return f"Begin with https:// or ssh://. This one is ssh://{scp['at']}/{scp['path'].lstrip('/')}"
    if parts.scheme == "http" and parts.hostname:
        return f"Begin with https:// or ssh://: what comes by http:// can be changed on its way. Try https{url[4:]}"
    return "Begin with https:// or ssh://."


def reference(text: str) -> str:
    """A branch, a tag or a commit; empty for the repository's default branch."""
    text = text.strip()
    if len(text) > LONGEST_REFERENCE or _NO_REFERENCE.search(text) or not text.isprintable():
        raise ValidationError("This is no name of a branch, tag or commit.", code="no_reference")
    return text


def time_limit(minutes: int | None) -> int | None:
    """In seconds; None for the portal's own."""
    if minutes is None:
        return None
    if not 1 <= minutes <= MOST_MINUTES:
        raise ValidationError(f"Give between 1 and {MOST_MINUTES:,} minutes.", code="out_of_range")
    return minutes * 60


def due(at: datetime, now: datetime) -> datetime:
    """When a run begins at the earliest. Not so far ahead that some place's clock could not show it."""
    if at < now - timedelta(minutes=2):
        raise ValidationError("This time has passed. Leave it empty to begin now.", code="past")
    if at > now + timedelta(days=MOST_DAYS_AHEAD):
        raise ValidationError("Give a time within ten years.", code="too_far")
    return at


def ranks(number: int | None) -> int | None:
    """None: one on each core. Whether the cluster has so many: `too_many_ranks`."""
    if number is not None and not 1 <= number <= MOST_RANKS:
        raise ValidationError(f"Give between 1 and {MOST_RANKS:,} ranks.", code="out_of_range")
    return number


def too_many_ranks(ranks: int | None, on_each: int | None, *, nodes: int, cores_per_node: int, where: str) -> str:
    """Why a cluster of this size cannot have so many, in all or on each node: a sentence. Empty where it can."""
    asked, there = (on_each, cores_per_node) if on_each else (ranks, cores_per_node * nodes)
    if not asked or asked <= there:
        return ""
    place = f"each node of {where}" if on_each else where
    return f"The run wants {asked} ranks, and {place} has {there} core{'' if there == 1 else 's'}."


def retries(number: int | None) -> int:
    """How often a run that failed is tried again."""
    if number is not None and not 0 <= number <= MOST_RETRIES:
        raise ValidationError(f"Give between 0 and {MOST_RETRIES}.", code="out_of_range")
    return number or 0


def retry_delay(minutes: int | None) -> int:
    """In seconds; a minute where nothing is said."""
    if minutes is None:
        return 60
    if not 0 <= minutes <= 60 * 24:
        raise ValidationError(f"Give between 0 and {60 * 24:,} minutes.", code="out_of_range")
    return minutes * 60


def environment(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Variables of the program's environment, as name and value; not those by which the portal starts it."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name):
            shown = f"“{name[:40]}” is no name of a variable" if name else f"The value “{value[:40]}” has no name"
            raise ValidationError(f"{shown}. It has letters, digits and _, and begins with no digit.", code="no_name")
        if _RESERVED.fullmatch(name):
            raise ValidationError(
                f"{name} is set by the portal, or changes how it starts the program. Choose another name.",
                code="reserved",
            )
        if name in found:
            raise ValidationError(f"{name} is there twice.", code="twice")
        if "\0" in value:
            raise ValidationError(f"{name}: a value cannot contain a NUL character.", code="nul")
        found[name] = value
    if len(found) > MOST_VARIABLES:
        raise ValidationError(f"At most {MOST_VARIABLES} variables; these are {len(found)}.", code="too_many")
    size = sum(len(name) + len(value.encode(errors="replace")) for name, value in found.items())
    if size > MOST_ENVIRONMENT:
        raise ValidationError(
            f"All variables together have at most {MOST_ENVIRONMENT // 1000} kB, these have {size // 1000}.",
            code="too_long",
        )
    return found


def secrets(pairs: Sequence[tuple[str, str]], kept: Collection[str], others: Collection[str]) -> dict[str, str | None]:
    """Secret variables, as name and value, None for one of the `kept` whose value stays. `others` are not secret."""
    environment([pair for pair in pairs if pair[0] or pair[1]])
    found: dict[str, str | None] = {}
    for name, value in pairs:
        if name in others:
            raise ValidationError(f"{name} is among the other variables too. Let it be in one place.", code="twice")
        if not value and name not in kept:
            raise ValidationError(f"Give {name} its value.", code="required")
        if value and len(value.encode(errors="replace")) < SHORTEST_SECRET:
            raise ValidationError(
                f"{name} is shorter than {SHORTEST_SECRET} characters: that cannot be kept out of what programs print.",
                code="too_short",
            )
        found[name] = value or None
    return found


_PORTS = {"https": 443, "http": 80, "ssh": 22}


def same_server(one: str, other: str) -> bool:
    """Whether two addresses are of one server, so that what signs in to it may go to both."""
    return _server(one) == _server(other)


def why_not_with(server: str, url: str, name: str) -> str:
    """Why what is called so, and kept for this server, cannot sign in at this address; empty where it can."""
    return "" if same_server(server, url) else f"{name} is for {server}, and goes to no other server."


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
