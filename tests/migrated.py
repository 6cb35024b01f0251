"""A database as all migrations leave it, made once and copied: each portal of a test would take 9 s to make its own."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APPS = ("portal", "accounts", "workspaces", "usage", "clusters", "jobs")  # what migrations are made of,
PINS = "constraints.txt"  # and those of others


def copy(place: Path) -> None:
    """SQLite's file of an installation that nobody has seen yet."""
    place.write_bytes(_made())
    with contextlib.closing(sqlite3.connect(place)) as database, database:
        database.execute("UPDATE portal_installation SET tag = ?", [str(uuid.uuid4())])


@functools.cache
def _made() -> bytes:
    """Kept beside pytest's own notes, under a name of all that it is made of."""
    folder = ROOT / ".pytest_cache"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(sqlite3.sqlite_version.encode())
    for file in (ROOT / PINS, *sorted(path for app in APPS for path in (ROOT / app).rglob("*.py"))):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    made = folder / f"migrated-{digest.hexdigest()[:20]}.sqlite3"
    with (folder / "migrated.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for old in folder.glob("migrated-*"):
                old.unlink()
            _make(made)
        return made.read_bytes()


def _make(place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="cx-migrated-") as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PORTAL_", "DJANGO_"))}
        kept.pop("DATABASE_URL", None)
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0"], cwd=ROOT, env={**kept, "PORTAL_VAR": folder},
            check=True,
        )  # fmt: skip
        database = Path(folder, "portal.sqlite3")
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # all of it is in the one file
        new = place.with_suffix(".new")
        new.write_bytes(database.read_bytes())
        new.replace(place)
