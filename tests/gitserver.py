"""A Git repository served over plain http from this process, as a team's own Git server would."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(files):
    """The address of a repository with these files, {name: text}, in one commit on main."""
    folder = Path(tempfile.mkdtemp(prefix="cx-git-"))
    source = folder / "repository"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(source)]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "Files"], ["update-server-info"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/repository/.git"
    finally:
        server.shutdown()
        server.server_close()
        shutil.rmtree(folder)
