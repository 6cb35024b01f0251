"""A source without a history, of which each run has a copy: how much that may be, and what it was."""

import hashlib
import os
import re
import time

from addresses import shown
from programs import SetupFailed

MOST_BYTES = 10**9
MOST_FILES = 20_000
CODE = "address"  # of what another path would mend
DIGEST = re.compile(r"[0-9a-fA-F]{40,64}")


class Contents:
    """What is copied. Of `order`: git_url, where it is; reference, empty or what the contents have to be, as the start
    of their SHA-256; and where given `source_bytes`, `source_files` and `source_seconds`, which are the most.
    """

    what = "is a folder"
    data_is = "in /shared"  # where a program can read more

    def __init__(self, order, into):
        """Raises `SetupFailed`."""
        self.path, self.reference, self.into = order["git_url"], order["reference"], into
        if self.reference and not DIGEST.fullmatch(self.reference):
            raise SetupFailed(
                f"{shown(self.path)} {self.what}, and has no branch, tag or commit {shown(self.reference)}.",
                "",
                "Leave the reference empty.",
                "reference",
            )
        self.most_bytes = order.get("source_bytes", MOST_BYTES)
        self.most_files = order.get("source_files", MOST_FILES)
        self.until = time.monotonic() + order.get("source_seconds", 600)
        self.count = self.bytes = 0
        self.lines = []

    @property
    def entries(self):
        return len(self.lines)

    def check(self):
        """Before one more. Raises `SetupFailed`."""
        if time.monotonic() > self.until:
            raise self.too_much("takes too long to copy")
        if self.bytes > self.most_bytes:
            raise self.too_much(f"is more than {size(self.most_bytes)}")
        if self.entries >= self.most_files:
            raise self.too_many()

    def too_many(self):
        return self.too_much(f"has more than {self.most_files:,} files and folders")

    def too_much(self, what):
        return SetupFailed(
            f"{shown(self.path)} {what}.",
            "",
            "Each run gets a copy of its source. Name a folder with the program alone; data it can read"
            f" {self.data_is}.",
            CODE,
        )

    def note(self, to, kind, content):
        name = os.fsencode(to.relative_to(self.into))
        # Each ends with what no name has in it, as one may have line breaks: two trees never read the same.
        self.lines.append(b"%b\0%b\0%b\0" % (name, kind.encode(), os.fsencode(content)))

    def tell(self, setup):
        """What it was. Raises `SetupFailed` where it had to be something else."""
        digest = hashlib.sha256(b"".join(sorted(self.lines))).hexdigest()  # of all names, kinds and contents
        if not digest.startswith(self.reference.lower()):
            raise SetupFailed(
                f"What is in {shown(self.path)} is no longer what it was.",
                f"sha256 {digest}, not {shown(self.reference)}…",
                "Run the job again to take it as it is now.",
            )
        words = f"{self.count} file{'' if self.count == 1 else 's'}, {size(self.bytes)}, sha256 {digest}"
        setup.facts.update(commit=digest[:40], subject=words)  # told with what comes next
        setup.say(f"Copied {shown(self.path)}: {words}")


def size(count):
    if count < 1000:
        return f"{count} bytes"
    power = min(3, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB')[power - 1]}"
