"""Reading settings from the environment: NAME, or NAME_FILE naming a file that holds the value."""

from __future__ import annotations

import os
import secrets
import tempfile
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def text(name: str, default: str = "") -> str:
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text().strip()
    return os.environ.get(name, default)


def flag(name: str, *, default: bool) -> bool:
    return text(name, "yes" if default else "no").strip().lower() in {"1", "yes", "true", "on"}


def number(name: str, default: int) -> int:
    value = text(name)
    try:
        return int(value or default)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, and is {value!r}") from None


def words(name: str) -> list[str]:
    return [word for word in text(name).replace(",", " ").split() if word]


def networks(name: str) -> list[IPv4Network | IPv6Network]:
    """Such as 10.20.0.0/16."""
    return [ip_network(word) for word in words(name)]


def paths(name: str) -> list[str]:
    """Absolute paths, with a colon between two."""
    return [path for path in text(name).split(":") if path]


def is_loopback(host: str | None) -> bool:
    return host in {"127.0.0.1", "localhost", "::1"}


def hosts(url: str) -> list[str]:
    """The Host headers with which browsers ask for this address. On loopback, both of its usual names.

    A port that goes without saying may still be said, as some proxies do; browsers leave it out.
    """
    parts = urlsplit(url)
    names = ["127.0.0.1", "localhost"] if is_loopback(parts.hostname) else [parts.hostname or ""]
    if parts.hostname == "::1":
        names = ["[::1]", *names]
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    if parts.port in {None, usual}:
        return [*names, *(f"{name}:{usual}" for name in names)]
    return [f"{name}:{parts.port}" for name in names]


def private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def generated_secret(path: Path) -> str:
    """The secret in this file, which is made on the first call. Two processes starting at once agree on one."""
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
            draft.write(secrets.token_urlsafe(48))
        try:
            os.link(draft.name, path)  # fails when another process was first; then theirs counts
        except FileExistsError:
            pass
        finally:
            os.unlink(draft.name)
    return path.read_text().strip()


def socket_path(folder: Path) -> Path:
    """Where the embedded Valkey listens.

    A unix socket's path must be shorter than 108 characters, and RQ's client cannot read the server's list of clients
    when it has a blank.
    """
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) < 100 and not any(letter.isspace() for letter in str(path)):
        return path
    short = sha256(os.fsencode(folder)).hexdigest()[:12]
    place = private_folder(Path(tempfile.gettempdir()) / f"coxswain-{os.getuid()}-{short}")
    if place.stat().st_uid != os.getuid():
        raise PermissionError(f"{place} belongs to somebody else")
    return place / "valkey.sock"


def redis_url(base: str, *, database: int) -> str:
    return f"{base}?db={database}" if base.startswith("unix:") else f"{base.rstrip('/')}/{database}"


def database(url: str, folder: Path, *, connections: int = 16) -> dict[str, Any]:
    """Django's DATABASES entry for `postgresql://…`, or SQLite in the folder when no URL is given.

    `connections`: how many one process has to PostgreSQL, at most. Its threads share them: each has one from its first
    question on until its request or its piece of work ends, and who finds none free waits.
    """
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": folder / "portal.sqlite3",
            # DEFERRED transactions fail at once with "database is locked" when a read turns into a write;
            # IMMEDIATE ones wait their turn.
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-20000;",
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ValueError(f"DATABASE_URL must begin with postgresql://, not {parts.scheme}://")
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    host = options.pop("host", "") or unquote(parts.hostname or "")
    return {
        "ENGINE": "portal.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or options.pop("port", "")),
        "CONN_HEALTH_CHECKS": True,  # when one is taken from the pool: the server may have been restarted
        "OPTIONS": options | {"pool": {"min_size": 1, "max_size": connections, "timeout": 10, "max_idle": 60}},
    }


def mail(url: str) -> dict[str, Any]:
    """How mail goes out, as Django's EMAIL_ settings: onto the console when no URL is given.

    `smtp://user:password@host` by STARTTLS, which `?starttls=no` leaves out; `smtps://…` by TLS from the start;
    `file:/folder` into files. Raises ValueError for what is none of them, and for a password without TLS.
    """
    parts = urlsplit(url or "console:")
    backend = {"console": "console", "file": "filebased"}.get(parts.scheme, "smtp")
    found: dict[str, Any] = {"EMAIL_BACKEND": f"django.core.mail.backends.{backend}.EmailBackend"}
    if parts.scheme == "console":
        return found
    if parts.scheme == "file" and parts.path:
        return found | {"EMAIL_FILE_PATH": unquote(parts.path)}
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
        raise ValueError("PORTAL_EMAIL_URL must be smtp://host, smtps://host or file:/folder")
    default = "no" if is_loopback(parts.hostname) else "yes"
    starttls = parts.scheme == "smtp" and dict(parse_qsl(parts.query)).get("starttls", default) == "yes"
    private = starttls or parts.scheme == "smtps" or is_loopback(parts.hostname)
    if parts.password and not private:
        raise ValueError("PORTAL_EMAIL_URL has a password, and ?starttls=no would send it to be read on the way")
    return found | {
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": parts.port or (465 if parts.scheme == "smtps" else 587 if starttls else 25),
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": starttls,
        "EMAIL_USE_SSL": parts.scheme == "smtps",
        "EMAIL_TIMEOUT": 10,
    }
