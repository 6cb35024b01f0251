"""A Git repository served over plain http from this process, as a team's own Git server would."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path


def git(folder, *words):
    """What git prints, called in the folder by somebody."""
    me = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *me, "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


class _Handler(http.server.SimpleHTTPRequestHandler):
    asks_for = None

    def do_GET(self):
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        if self.asks_for and (kind != "Basic" or base64.b64decode(given).decode() != ":".join(self.asks_for)):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(files, asks_for=None):
    """The address of a repository with these files, {name: text}, in one commit on main.

    `asks_for` is the (user name, password) without which it is not given out.
    """
    folder = Path(tempfile.mkdtemp(prefix="cx-git-"))
    source = folder / "repository"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(source)]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "Files"], ["update-server-info"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    handler = type("Handler", (_Handler,), {"asks_for": asks_for})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/repository/.git"
    finally:
        server.shutdown()
        server.server_close()
        shutil.rmtree(folder)
