"""Copies a run's source from the workspace's shared filesystem into a folder that is the run's, as it is now."""

import errno
import hashlib
import itertools
import os
import pathlib
import stat

from addresses import shown
from copied import CODE, Contents
from programs import SetupFailed

ROOT = "/shared"
PIECE = 1 << 20


def fetch(setup):
    """A copy of the folder, in FOLDER/src. Returns that folder.

    Of `setup.order`: git_url, the path below /shared; shared, and what `Contents` reads.
    """
    path, into = setup.order["git_url"], setup.folder / "src"
    copy = Copy(setup.order, into)
    origin = found(setup.order["shared"], path)
    setup.begin()
    try:
        copy.folder(origin, into)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SetupFailed(f"{shown(path)} could not be copied.", str(error)) from error
    copy.tell(setup)
    return into


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


class Copy(Contents):
    """Of files and folders, with links that stay inside; what others change meanwhile is copied as it was read."""

    def folder(self, origin, into):
        self.origin, folders = origin, [(origin, into)]
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
            found = list(itertools.islice(entries, self.most_files - self.entries + 1))
        if self.entries + len(found) > self.most_files:
            raise self.too_many()
        return sorted(found, key=lambda one: one.name)

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
