"""The examples as Git repositories, which the portal serves read-only at /examples/NAME."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings

from portal.environment import is_loopback
from workspaces.models import CloudConfig

EXAMPLES = Path(__file__).parent / "examples"


def names() -> list[str]:
    return sorted(folder.name for folder in EXAMPLES.iterdir() if (folder / "README.md").is_file())


@dataclass(frozen=True)
class Example:
    """`says` is the first line of what its program says of itself."""

    name: str
    command: str
    says: str

    @property
    def fields(self) -> dict[str, str]:
        """What to fill in to run it."""
        return {"command": self.command, "git_url": f"{settings.PORTAL_URL}/examples/{self.name}", "reference": ""}


@cache
def offered() -> tuple[Example, ...]:
    return tuple(_example(name) for name in names())


def _example(name: str) -> Example:
    command = f"{name.replace('-', '_')}.py"
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name / command).read_text())) or ""
    return Example(name, command, docstring.partition("\n")[0])


def out_of_reach(config: CloudConfig) -> str:
    """Why nodes of this cloud configuration cannot clone the examples: a sentence. Empty where they can."""
    parts = urlsplit(settings.PORTAL_URL)
    is_here = config.kind == CloudConfig.Kind.LOCAL or (
        config.kind == CloudConfig.Kind.AWS and settings.AWS["endpoint"]
    )
    if is_here or (parts.scheme == "https" and not is_loopback(parts.hostname)):
        return ""
    return (
        f"The examples are served by this portal at {settings.PORTAL_URL}, which nodes of {config} do not reach. Have "
        "the portal served at an https address that they reach, or put an example onto a Git server of yours."
    )


def is_example(git_url: str) -> bool:
    """Whether it is the address of an example of this portal, under which it answers now or did before."""
    return any(where_it_is_now(git_url) == one.fields["git_url"] for one in offered())


def where_it_is_now(git_url: str) -> str:
    """The address of an example of this portal under which it answers now; any other address as it is.

    A job keeps what was typed, and `make up` takes another port when its own is taken.
    """
    parts = urlsplit(git_url)
    if parts.scheme != "http" or not is_loopback(parts.hostname):
        return git_url
    example = next((one for one in offered() if parts.path.rstrip("/") == f"/examples/{one.name}"), None)
    return example.fields["git_url"] if example else git_url


def folder_of(name: str) -> Path:
    return Path(settings.VAR) / "examples" / name


def publish(name: str) -> Path:
    """Make the repository, unless the one that is there has the same files. Returns its folder."""
    source, final = EXAMPLES / name, folder_of(name)
    files = sorted(f for f in source.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    content = sha256()
    for file in files:
        content.update(f"{file.relative_to(source)}\0".encode() + sha256(file.read_bytes()).digest())
    mark = content.hexdigest()
    if (final / "published").is_file() and (final / "published").read_text() == mark:
        return final
    final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{name}-"))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(draft),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DIR": str(draft),
        # The same files give the same commit, whoever publishes them.
        **{f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER") for what, text in _SIGNATURE.items()},
    }
    work_tree = f"--work-tree={source}"
    for words in (
        ("init", "--quiet", "--bare", "--initial-branch=main"),
        (work_tree, "add", "--", *(str(file.relative_to(source)) for file in files)),
        (work_tree, "commit", "--quiet", "-m", f"The {name} example"),
        ("repack", "-a", "-d", "-q"),
        ("update-server-info",),
    ):
        subprocess.run(["git", *words], env=environment, cwd=source, check=True, capture_output=True)
    (draft / "published").write_text(mark)
    shutil.rmtree(final, ignore_errors=True)
    draft.replace(final)
    return final


_SIGNATURE = {"NAME": "Coxswain", "EMAIL": "examples@coxswain.invalid", "DATE": "2026-01-01T00:00:00+00:00"}
