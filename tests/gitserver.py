"""Git repositories served over plain http from this process, as a team's own Git server would."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import os
import shutil
import socket
import ssl
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
    before = None

    def do_GET(self):
        if self.before and self.before(self.path) is False:
            self.send_error(404)
            return
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
def served(files, asks_for=None, before=None):
    """The address of a repository with these files, {name: text}, in one commit on main.

    `asks_for` is the (user name, password) without which it is not given out. `before(path)` is called before each
    answer, which is that there is nothing if it says False.
    """
    folder = Path(tempfile.mkdtemp(prefix="cx-git-"))
    source = folder / "repository"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(source)]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "Files"], ["update-server-info"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    handler = type("Handler", (_Handler,), {"asks_for": asks_for, "before": before and staticmethod(before)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/repository/.git"
    finally:
        server.shutdown()
        server.server_close()
        shutil.rmtree(folder)


class _Smart(http.server.BaseHTTPRequestHandler):
    """`git http-backend` over a folder, with what servers of people do besides."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, query = self.path.partition("?")
        self.server.asked.append((path, self.headers.get("Authorization", "")))
        if self.server.before:
            self.server.before(path)
        for start, to in self.server.moved.items():
            if path.startswith(start):
                return self.answer(301, {"Location": to + self.path[len(start) :]})
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        asks_for = self.server.asks_for
        if asks_for and (kind != "Basic" or base64.b64decode(given).decode() != ":".join(asks_for)):
            return self.answer(401, {"WWW-Authenticate": self.server.challenge})
        env = {
            "PATH": os.environ["PATH"], "HOME": self.server.folder, "GIT_PROJECT_ROOT": self.server.folder,
            "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False).stdout
        head, _, data = said.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(headers.pop("Status", "200").split()[0])
        if not self.server.cuts or not path.endswith("/git-upload-pack"):
            return self.answer(status, headers, data)
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        chunked = self.server.cuts == "chunked"
        self.send_header(*("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(data))))
        self.end_headers()
        return self.wfile.write((b"%x\r\n" % len(data) if chunked else b"") + data[:-10])

    def do_POST(self):
        self.do_GET()

    def answer(self, status, headers, data=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class _V6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def serving(folder, address="127.0.0.1", pem=None):
    """A server of all repositories in the folder. It has `url`; `asked`: (path, Authorization) of each request;
    `moved`: {start of a path: where it leads}; `asks_for`: (user name, password), in the way of `challenge`;
    `before(path)`: called first; `cuts`: packs end too early, "chunked" or of a "length". With `pem`,
    the file of its certificate and key, it speaks https.
    """
    kind = _V6 if ":" in address else http.server.ThreadingHTTPServer
    server = kind((address, 0), _Smart)
    server.folder, server.asked, server.moved, server.asks_for, server.before = str(folder), [], {}, None, None
    server.challenge, server.cuts = 'Basic realm="private"', ""
    server.url = f"http{'s' if pem else ''}://{f'[{address}]' if ':' in address else address}:{server.server_port}"
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
