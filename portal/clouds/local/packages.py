"""Where packages come from on this computer, as pip and uv were told, so that nodes can be told the same.

An index may lie on disk, at a neighbour or on this very computer: what the administrator has set up for pip and uv is
meant for nodes too, so these places are shown, and these addresses are let through, and nothing beside them.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# How to reach packages and sources. Not where the portal keeps its caches, nor who may publish.
_PASSED_ON = ("PIP_", "UV_")
_CERTIFICATES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE"})
_KEPT_BACK = frozenset(
    {"PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_LOG", "PIP_CONFIG_FILE"}
    | {"UV_CACHE_DIR", "UV_PYTHON", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON", "UV_CONFIG_FILE"}
    | {"UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "UV_PYTHON_INSTALL_DIR", "UV_PUBLISH_TOKEN", "UV_PUBLISH_PASSWORD"}
    | {"PIP_PROXY", "UV_CREDENTIALS_DIR"}
)
_PIP_OPTIONS = frozenset(
    {
        "index-url",
        "extra-index-url",
        "find-links",
        "trusted-host",
        "no-index",
        "constraint",
        "cert",
        "timeout",
        "retries",
    }
)
# Which of them name places and addresses that a node must reach. Others, such as where credentials lie, name none.
_LEADING = frozenset(
    {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_CERT"}
    | {"UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_CONSTRAINT"}
    | {"UV_OVERRIDE", "UV_BUILD_CONSTRAINT"}
    | _CERTIFICATES
)
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Sources:
    environment: Mapping[str, str]  # what tells pip and uv
    places: tuple[Path, ...]  # files and folders of this computer
    addresses: tuple[str, ...]  # host:port of indexes


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the portal's environment that a node gets, but for proxies."""
    return {
        name: value
        for name, value in environment.items()
        if (name.startswith(_PASSED_ON) or name in _CERTIFICATES or name == "TZ") and name not in _KEPT_BACK
    }


def proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The way out of the house, as the portal itself was told."""
    return {name: value for name, value in environment.items() if name.upper() in _PROXIES}


def sources(environment: Mapping[str, str]) -> Sources:
    told = {**_of_pip(environment), **_of_uv(environment), **passed_on(environment)}
    words = [word for name, value in told.items() if name in _LEADING for word in [*re.split(r"[\s,]+", value), value]]
    return Sources(told, tuple(_places(words)), tuple(dict.fromkeys(_addresses(words))))


def _addresses(words: Iterable[str]) -> Iterable[str]:
    for word in words:
        word = re.sub(r"^[\w-]+=(?=https?://)", "", word)  # uv's NAME=URL
        parts = urlsplit(word) if word.startswith(("http://", "https://")) else None
        if parts and parts.hostname:
            yield f"{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"


def _places(words: Iterable[str]) -> Iterable[Path]:
    for word in words:
        path = Path(unquote(urlsplit(word).path) if word.startswith("file://") else word)
        if path.is_absolute() and len(path.parts) > 2 and path.exists():
            # the pages of a simple index name files that lie beside it
            yield path.parent if path.name == "simple" and len(path.parts) > 3 else path
            if path.is_symlink():
                yield path.resolve()


def _of_pip(environment: Mapping[str, str]) -> dict[str, str]:
    """What pip reads from its files, as the variables that say the same."""
    home = Path(environment.get("HOME", "/nonexistent"))
    settings = Path(environment.get("XDG_CONFIG_HOME", home / ".config"))
    machine = environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    files = [Path(folder, "pip", "pip.conf") for folder in machine] + [Path("/etc/pip.conf")]
    files += [home / ".pip" / "pip.conf", settings / "pip" / "pip.conf", Path(sys.prefix, "pip.conf")]
    if named := environment.get("PIP_CONFIG_FILE"):
        files = [] if named == os.devnull else [*files, Path(named)]
    told: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue  # pip itself will say so
        for section in ("global", "install"):
            if parser.has_section(section):
                for name, value in parser.items(section):
                    if name in _PIP_OPTIONS:
                        told[f"PIP_{name.upper().replace('-', '_')}"] = " ".join(value.split())
    return told


def _of_uv(environment: Mapping[str, str]) -> dict[str, str]:
    home = Path(environment.get("HOME", "/nonexistent"))
    settings = Path(environment.get("XDG_CONFIG_HOME", home / ".config"))
    told: dict[str, str] = {}
    for file in (Path("/etc/uv/uv.toml"), settings / "uv" / "uv.toml", environment.get("UV_CONFIG_FILE")):
        if not file:
            continue
        try:
            read = tomllib.loads(Path(file).read_text())
        except (OSError, ValueError):
            continue  # uv itself will say so
        told |= _variables_of_uv(read)
    return told


def _variables_of_uv(read: Mapping[str, Any]) -> dict[str, str]:
    told = {}
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
    for name, variable in names.items():
        value = read.get(name, read.get("pip", {}).get(name))
        if value:
            told[variable] = value if isinstance(value, str) else " ".join(value)
    further = [index["url"] for index in read.get("index", ()) if not index.get("default")]
    for index in read.get("index", ()):
        if index.get("default"):
            told["UV_DEFAULT_INDEX"] = index["url"]
    if further:
        told["UV_INDEX"] = " ".join([*further, *told.get("UV_INDEX", "").split()])
    return told
