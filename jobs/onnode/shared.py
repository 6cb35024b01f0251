"""Copies a run's source from the workspace's shared filesystem into a folder that is the run's, as it is now."""

import errno
import hashlib
import itertools
import os
import pathlib
import re
import stat
import time

from addresses import shown
from programs import SetupFailed

ROOT = "/shared"
MOST_BYTES = 10**9
MOST_FILES = 20_000
CODE = "address"  # of what another path would mend
PIECE = 1 << 20
DIGEST = re.compile(r"[0-9a-fA-F]{40,64}")


def fetch(setup):
    """A copy of the folder, in FOLDER/src. Returns that folder.

    Of `setup.order`: git_url, the path below /shared; reference, empty or what the contents have to be, as the start of
    their SHA-256; shared, and where given `source_bytes`, `source_files` and `source_seconds`, which are the most.
    """
    path, reference = setup.order["git_url"], setup.order["reference"]
    if reference and not DIGEST.fullmatch(reference):
        raise SetupFailed(
            f"{shown(path)} is a folder, and has no branch, tag or commit {shown(reference)}.",
            "",
            "Leave the reference empty.",
            "reference",
        )
    origin = found(setup.order["shared"], path)
    setup.begin()
    copy = Copy(setup.order, path, origin, setup.folder / "src")
    try:
        copy.folder(origin, setup.folder / "src")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SetupFailed(f"{shown(path)} could not be copied.", str(error)) from error
    digest = copy.digest()
    if not digest.startswith(reference.lower()):
        raise SetupFailed(
            f"What is in {shown(path)} is no longer what it was.",
            f"sha256 {digest}, not {shown(reference)}…",
            "Run the job again to take it as it is now.",
        )
    words = f"{copy.count} file{'' if copy.count == 1 else 's'}, {size(copy.bytes)}, sha256 {digest}"
    setup.facts.update(commit=digest[:40], subject=words)  # told with what comes next
    setup.say(f"Copied {shown(path)}: {words}")
    return setup.folder / "src"


def found(shared, path):
    """The folder, without links, in what all nodes share. Raises `SetupFailed`."""
    names = pathlib.PurePosixPath(path).parts
    if names[:2] != ("/", "shared") or len(names) < 3 or ".." in names:
        raise SetupFailed(f"{shown(path)} is no folder in {ROOT}.", code=CODE)
    top = pathlib.Path(os.path.realpath(shared))
    real = pathlib.Path(os.path.realpath(top.joinpath(*names[2:])))
    if top not in real.parents:
        raise SetupFailed(f"{shown(path)} leads out of {ROOT}.", code=CODE)
    if real.relative_to(top).parts[0].startswith("."):
        raise SetupFailed(f"{shown(path)} is the portal's own.", code=CODE)
    if not real.is_dir():
        what = "is a file: name its folder as the path" if real.is_file() else "is not there"
        raise SetupFailed(f"{shown(path)} {what}.", beside(real), "Check the path of the job.", CODE)
    return real


def beside(path):
    """What is there, in words."""
    try:
        names = sorted(one.name for one in path.parent.iterdir() if not one.name.startswith("."))
    except OSError:
        return ""
    return f"Beside it: {', '.join(map(shown, names[:20]))}" if names else ""


def size(count):
    if count < 1000:
        return f"{count} bytes"
    power = min(3, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB')[power - 1]}"


class Copy:
    """Of files and folders, with links that stay inside; what others change meanwhile is copied as it was read."""

    def __init__(self, order, path, origin, into):
        self.most_bytes = order.get("source_bytes", MOST_BYTES)
        self.most_files = order.get("source_files", MOST_FILES)
        self.until = time.monotonic() + order.get("source_seconds", 600)
        self.path, self.origin, self.into = path, origin, into
        self.count = self.bytes = 0
        self.lines = []

    def digest(self):
        """Of all names, kinds and contents."""
        return hashlib.sha256(b"".join(sorted(self.lines))).hexdigest()

    def folder(self, origin, into):
        folders = [(origin, into)]
        while folders:
            origin, into = folders.pop()
            into.mkdir(exist_ok=into == self.into)  # the ranks that wait may be there already
            for entry in self.listed(origin):
                self.check()
                to = into / entry.name
                if entry.is_symlink():
                    self.link(entry.path, to)
                elif entry.is_dir():
                    self.note(to, "d", "")
                    folders.append((pathlib.Path(entry.path), to))
                else:
                    self.file(entry.path, to)

    def listed(self, origin):
        """What is in a folder, by its name. Of one in which millions are, no more is read than shows that."""
        with os.scandir(origin) as entries:
            found = list(itertools.islice(entries, self.most_files - len(self.lines) + 1))
        if len(self.lines) + len(found) > self.most_files:
            raise self.too_many()
        return sorted(found, key=lambda one: one.name)

    def check(self):
        if time.monotonic() > self.until:
            raise self.too_much("takes too long to copy")
        if self.bytes > self.most_bytes:
            raise self.too_much(f"is more than {size(self.most_bytes)}")

    def too_many(self):
        return self.too_much(f"has more than {self.most_files:,} files and folders")

    def too_much(self, what):
        return SetupFailed(
            f"{shown(self.path)} {what}.",
            "",
            "Each run gets a copy of its source. Name a folder with the program alone; data it can read in /shared.",
            CODE,
        )

    def note(self, to, kind, content):
        name = os.fsencode(to.relative_to(self.into))
        # Each ends with what no name has in it, as one may have line breaks: two trees never read the same.
        self.lines.append(b"%b\0%b\0%b\0" % (name, kind.encode(), os.fsencode(content)))

    def link(self, origin, to):
        real = pathlib.Path(os.path.realpath(origin))
        if real != self.origin and self.origin not in real.parents:
            raise SetupFailed(
                f"{shown(self.name(origin))} in {shown(self.path)} is a link that leads out of it.",
                "",
                "Put there what it leads to, or have the program read that by its whole path.",
                CODE,
            )
        target = os.path.relpath(real, os.path.realpath(os.path.dirname(origin)))
        os.symlink(target, to)
        self.note(to, "l", target)

    def file(self, origin, to):
        # A pipe in its place would be waited for, and a link followed.
        with open(os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", 0) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise SetupFailed(
                    f"{shown(self.name(origin))} in {shown(self.path)} is neither a file nor a folder.", code=CODE
                )
            runs = bool(about.st_mode & stat.S_IXUSR)
            content, new = hashlib.sha256(), os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(to, new, 0o700 if runs else 0o600), "wb", 0) as copy:
                while data := file.read(PIECE):
                    self.bytes += len(data)
                    self.check()
                    content.update(data)
                    rest = memoryview(data)
                    while rest:
                        rest = rest[copy.write(rest) :]
        self.count += 1
        self.note(to, "x" if runs else "f", content.hexdigest())

    def name(self, origin):
        return os.path.relpath(origin, self.origin)
