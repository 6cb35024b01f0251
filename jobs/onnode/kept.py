"""What runs leave on /shared for the next ones: in folders under a lock each, so many and so large, oldest use first.

Locks are the kernel's (flock), which takes them from whoever dies. Runs of other clusters use the same folders.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import stat
import time

import programs
from detach import open_file, take_back

MARK = ".complete"  # in each folder: how many bytes are in it; its time is that of the last use


class Store:
    """Folders by name. `most` of them are kept, and `most_bytes` together."""

    def __init__(self, folder, order, until, say):
        self.folder = pathlib.Path(folder)
        self.most = order.get("kept_most", 20)
        self.most_bytes = order.get("kept_bytes", 10 << 30)
        self.until = until
        self.say = say

    @contextlib.contextmanager
    def locked(self, name, what):
        """The descriptor of the lock, which nobody else has now."""
        descriptor = self.take(name, fcntl.LOCK_EX, what)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def take(self, name, how, what):
        """A descriptor that has the lock until it is closed. `what` it is waited for is said when it takes long."""
        began, told = time.monotonic(), False
        while (descriptor := self.take_if_free(name, how)) is None:
            if time.monotonic() > self.until:
                raise programs.SetupFailed(
                    f"Another run has {what} for itself, for {time.monotonic() - began:.0f} s now.",
                    "",
                    "Look at the other runs of this workspace; when the one that has it ends, run the job again.",
                )
            if not told and time.monotonic() - began > 1:
                self.say(f"Waiting for another run, which has {what} for itself")
                told = True
            time.sleep(0.02)
        return descriptor

    def take_if_free(self, name, how=fcntl.LOCK_EX):
        """None when somebody has it; or it was thrown away just now, and what we have is the lock of nothing."""
        take_back(self.folder, stat.S_ISDIR)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{name}.lock"
        take_back(path, stat.S_ISREG)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def is_kept(self, name):
        return (self.folder / name / MARK).exists()

    def use(self, name):
        os.utime(self.folder / name / MARK)

    def keep(self, name, folder=None):
        """It is whole; `folder` is where it was made. Whoever calls has its lock."""
        folder = folder or self.folder / name
        size = sum(os.lstat(os.path.join(at, file)).st_blocks for at, _, files in os.walk(folder) for file in files)
        take_back(folder / MARK, stat.S_ISREG)
        (folder / MARK).write_text(f"{size * 512}\n")
        if folder != self.folder / name:
            take_back(self.folder / name, stat.S_ISDIR)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            folder.rename(self.folder / name)

    def make_room(self):
        """Throw away what is too much, and what somebody who died has left; nothing that is in use."""
        used = []
        for folder in self.folder.iterdir():
            if folder.is_dir():
                with contextlib.suppress(FileNotFoundError):
                    used.append((_last_use(folder), how_large(folder), folder))
        total = 0
        for place, (when, size, folder) in enumerate(sorted(used, reverse=True), start=1):
            total += size
            if when == 0 or place > self.most or total > self.most_bytes:
                self._throw_away(folder)

    def _throw_away(self, folder):
        name = folder.name.split(".")[0]  # what is being made is in NAME.RUN
        descriptor = self.take_if_free(name)
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            (folder / MARK).unlink()  # first: half of it is nothing to use
        self._remove(folder, name)
        os.close(descriptor)

    def forget_half(self, name):
        """What is no more than begun is nothing. Whoever calls has its lock."""
        if not self.is_kept(name):
            self._remove(self.folder / name, name)

    def clear(self, name):
        """Nothing is in its place: what cannot be thrown away is put aside. Whoever calls has its lock."""
        folder = self.folder / name
        take_back(folder, stat.S_ISDIR)
        _remove_tree(folder)
        take_back(folder, lambda mode: False)

    def _remove(self, folder, name):
        _remove_tree(folder)
        if not (self.folder / name).exists():
            (self.folder / f"{name}.lock").unlink(missing_ok=True)


def _remove_tree(folder):
    """As far as it goes."""
    with contextlib.suppress(RecursionError):  # somebody made it too deep to be thrown away like this
        shutil.rmtree(folder, ignore_errors=True)


def _last_use(folder):
    try:
        return (folder / MARK).stat().st_mtime
    except OSError:
        return 0


def how_large(folder):
    """In bytes, as it was when it was kept; 0 where it is not."""
    try:
        with open_file(folder / MARK) as mark:
            return int(mark.read(40))
    except (OSError, ValueError):
        return 0
