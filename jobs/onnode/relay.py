"""Signs in to a Git server in git's place: git has no password, and so nobody takes it from there.

Whoever runs programs of the same account can read what git has: its words, its environment, its files and its memory.
Of the process that this is a part of they read nothing: see `hide` of `detach.py`. It listens on loopback, for what has
descended from it and for nobody else. What git asks there for, by plain http, it asks the server for, and signs in
where the server wants that: for one repository, for what a fetch needs, and while git is out for it. A redirect is
handed on and not followed. Standard library only, Python 3.9 or newer.
"""

import base64
import contextlib
import http.client
import http.server
import os
import re
import socket
import socketserver
import ssl
import sys
import threading
import urllib.parse

import addresses
from detach import descendants

PIECE = 256 << 10
MOST_BODY = 2 << 20  # bytes of a question: git sends a longer one in chunks, and asks before whether it has to sign in
MOST_CHUNK = 16 << 20
QUESTION = "application/x-git-upload-pack-request"
LISTING = "info/refs?service=git-upload-pack"
# Of a server that has files and no more.
FILES = re.compile(
    r"HEAD|info/refs|objects/(?:info/[a-z-]+|[0-9a-f]{2}/[0-9a-f]{38,62}|pack/pack-[0-9a-f]+\.(?:pack|idx))"
)
ASKED = ("User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Content-Encoding",
         "Git-Protocol", "Pragma", "Cache-Control", "Range")  # fmt: skip
ANSWERED = ("Content-Type", "Content-Encoding", "Content-Range", "Cache-Control", "Retry-After", "Location")
LOOPBACK = "127.0.0.1"
LOOKS = 0.02  # seconds between two looks whether it is over
IN_ASCII = "".join(map(chr, range(0x21, 0x7F)))


class Relay(socketserver.ThreadingTCPServer):
    """To the servers of one origin. `refused`: it does not take the password; `trouble`: why it does not answer."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, origin, credential, silence, authorities=None):
        """`authorities`: a file of whom to trust besides those that Python knows; reading it takes 50 ms."""
        super().__init__((LOOPBACK, 0), Handler)
        self.origin = origin
        self.url = f"http://{LOOPBACK}:{self.server_address[1]}/"  # as git has it, of any repository
        words = "{username}:{password}".format(**credential).encode()
        self.authorization = f"Basic {base64.b64encode(words).decode()}"
        self.seconds = silence + 10  # git gives up before, and says so
        self.authorities = authorities
        self.context = None
        self.server = None  # with the repository that is asked for now
        self.signs_in = self.refused = False
        self.trouble = ""
        self.idle = []  # connections to the server

    @contextlib.contextmanager
    def listening(self):
        thread = threading.Thread(target=self.serve_forever, args=(LOOKS,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()
            while self.idle:
                self.idle.pop().close()

    @contextlib.contextmanager
    def asking(self, server):
        """Meanwhile the repository that this `addresses.Server` names can be asked for."""
        self.refused, self.trouble, self.server = False, "", server
        try:
            yield
        finally:
            self.server = None

    def verify_request(self, request, client_address):
        """Whether a process that we have begun has the other end."""
        inode = inode_of((LOOPBACK, client_address[1]), self.server_address)
        return inode is not None and any(has_socket(pid, inode) for pid in descendants({os.getpid()}))

    def handle_error(self, request, client_address):
        pass  # git went away

    def connection(self, server):
        """One to the server, and whether it is new. Raises OSError."""
        with contextlib.suppress(IndexError):
            return self.idle.pop(), False
        port = urllib.parse.urlsplit(server.origin).port
        if proxy := proxy_to(server):
            found = http.client.HTTPConnection(*proxy[:2], timeout=self.seconds)
            if server.scheme == "https":
                found.set_tunnel(server.host, port, proxy[2])
            found.connect()
        else:
            found = http.client.HTTPConnection(server.host, port, timeout=self.seconds)
            found.sock = reach(server.pinned, port, self.seconds)
        found.auto_open = 0  # by itself it would be opened again without what follows
        if server.scheme == "https":
            try:
                found.sock = self.trust().wrap_socket(found.sock, server_hostname=server.host)
            except ssl.SSLCertVerificationError:
                found.close()
                if not self.authorities:
                    raise
                self.context.load_verify_locations(self.authorities)
                self.authorities = None
                return self.connection(server)
            except BaseException:
                found.close()
                raise
        return found, True

    def give_back(self, connection, answer, whole):
        """For the next question, if the answer was read to its end."""
        lasts = whole and not answer.will_close
        answer.close()
        if lasts:
            self.idle.append(connection)
        else:
            connection.close()

    def trust(self):
        if self.context is None:
            # Which reads SSL_CERT_FILE and SSL_CERT_DIR by itself.
            self.context = ssl.create_default_context(cafile=os.environ.get("GIT_SSL_CAINFO"))
            self.context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # of Python 3.13; git asks for less
        return self.context


class Handler(http.server.BaseHTTPRequestHandler):
    """Of one connection of git's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        server = self.server.server  # which stays the same for this question
        target = server and target_of(server, self.command, self.path[1:], self.headers["Content-Type"])
        body = self.body()
        if target is None or body is None:
            self.close_connection = True
            self.say(403)
            return
        try:
            connection, answer = self.ask(server, target, body)
        except (http.client.HTTPException, OSError) as error:
            self.server.trouble = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self.close_connection = True
            self.say(502)
            return
        whole = False
        try:
            if answer.status == 401:
                self.server.refused = True
                self.say(403)
            else:
                whole = self.hand_on(answer)
        except (http.client.HTTPException, OSError):
            pass
        finally:
            self.server.give_back(connection, answer, whole)
        self.close_connection = self.close_connection or not whole  # git sees what is missing

    def do_POST(self):
        self.do_GET()

    def body(self):
        """All of it, or what reads it piece by piece; None of what is too long, or none."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return self.chunks()
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            return None
        return self.rfile.read(int(length))

    def chunks(self):
        while size := int(self.rfile.readline(1000).partition(b";")[0], 16):
            if size > MOST_CHUNK:
                raise OSError("a chunk that is too large")
            yield self.rfile.read(size)
            self.rfile.readline(1000)
        self.rfile.readline(1000)

    def ask(self, server, target, body):
        """A connection to the server, with its answer. Raises OSError or HTTPException."""
        relay, whole = self.server, isinstance(body, bytes)
        while True:
            signs_in = relay.signs_in
            connection, is_new = relay.connection(server)
            try:
                proxy = proxy_to(server) if server.scheme == "http" else None
                netloc = urllib.parse.urlsplit(server.url).netloc
                at = f"http://{netloc}{target}" if proxy else target
                connection.putrequest(self.command, at, skip_host=True, skip_accept_encoding=True)
                connection.putheader("Host", netloc)
                for name in ASKED:
                    if name in self.headers:
                        connection.putheader(name, self.headers[name])
                for name, value in (proxy[2] if proxy else {}).items():
                    connection.putheader(name, value)
                if signs_in:
                    connection.putheader("Authorization", relay.authorization)
                if not whole:
                    connection.putheader("Transfer-Encoding", "chunked")
                elif self.command == "POST":
                    connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body or None, encode_chunked=not whole)
                answer = connection.getresponse()
            except (http.client.HTTPException, OSError):
                connection.close()
                if is_new or not whole:
                    raise
                continue  # the server has closed what was idle
            except BaseException:
                connection.close()
                raise
            challenge = ",".join(answer.headers.get_all("WWW-Authenticate") or ())
            if answer.status != 401 or signs_in or "basic" not in challenge.lower():
                return connection, answer
            relay.signs_in = True
            answer.read(PIECE)
            relay.give_back(connection, answer, answer.isclosed())
            if not whole:
                raise OSError("It asks who one is in the middle of a question")

    def hand_on(self, answer):
        """Whether it was whole."""
        length = answer.headers["Content-Length"]
        chunked = answer.chunked or length is None
        has_body = answer.status not in (204, 304)
        self.send_response_only(answer.status)
        for name in ANSWERED:
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        if chunked and has_body:
            self.send_header("Transfer-Encoding", "chunked")
        elif has_body:
            self.send_header("Content-Length", length)
        self.end_headers()
        if not has_body:
            return True
        left = None if chunked else int(length)
        while left != 0 and (data := answer.read1(PIECE if left is None else min(PIECE, left))):
            if left is None:
                self.wfile.write(b"%x\r\n" % len(data))
            else:
                left -= len(data)
            self.wfile.write(data)
            if left is None:
                self.wfile.write(b"\r\n")
        if left is None:
            self.wfile.write(b"0\r\n\r\n")
        return not left

    def say(self, status):
        self.send_response_only(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def target_of(server, verb, path, kind):
    """Where on the server that is; None of what no fetch asks for."""
    if verb == "POST":
        known = path == "git-upload-pack" and kind == QUESTION
    else:
        known = path == LISTING or FILES.fullmatch(path)
    if not known:
        return None
    parts = urllib.parse.urlsplit(server.url)
    base = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if "?" in base:
        path = path.replace("?", "&")  # as git has it
    return urllib.parse.quote(f"{base}{'' if base.endswith('/') else '/'}{path}", safe=IN_ASCII)


def proxy_to(server):
    """(host, port, headers for it) of what leads to the server, or None. Raises OSError."""
    url = addresses.proxy_of(server.scheme, server.host, urllib.parse.urlsplit(server.origin).port)
    if not url:
        return None
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise OSError(f"Nobody signs in through a proxy of the kind {parts.scheme}://")
    headers = {}
    if parts.username is not None:
        words = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(words.encode()).decode()}"
    return parts.hostname, parts.port or 1080, headers  # as curl has it


def reach(pinned, port, seconds):
    trouble = OSError("It has no address")
    for address in pinned:
        try:
            found = socket.create_connection((address, port), seconds)
        except OSError as error:
            trouble = error
        else:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return found
    raise trouble


def inode_of(own, other):
    """Of the socket of a connection between these two, at its own end; None where there is none."""
    ends = [f"{in_hex(address)}:{port:04X}" for address, port in (own, other)]
    with open("/proc/self/net/tcp") as connections:
        for fields in map(str.split, connections):
            if fields[1:3] == ends:
                return fields[9]
    return None


def in_hex(address):
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


def has_socket(pid, inode):
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) == f"socket:[{inode}]":
                    return True
    return False
