"""The way out of a node: a proxy for HTTP, whose listening socket is in the cluster's network and which itself is not.

It connects to what a name means outside, but never to this computer, its neighbours on the link or a cloud's metadata,
and to the very address that it has looked at, so a name that changes its mind gains nothing. It reads what strangers
send: it has no capability, is filtered, and with root is a user of its own.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures.thread  # noqa: F401 (looked up when first needed, by somebody who may not read it any more)
import contextlib
import encodings.idna  # noqa: F401 (the same)
import errno
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from portal.clouds.local import kernel, seccomp

PORT = 3128

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HEAD = 32 << 10  # bytes of a request's or an upstream proxy's head
_HEAD_WITHIN = 20.0
_CONNECT_WITHIN = 20.0
_AT_ONCE = 256
_HALF_OPEN = 10.0
_BLOCK = 1 << 16

# Where clouds answer questions that only this computer may ask.
_METADATA = frozenset(
    map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"))
)
_NEIGHBOURS = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
# Addresses of the newer kind that have one of the older in their last four bytes.
_CARRIERS = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")

# What git asks of a server, in its old and its new way; nothing else is asked of a server on this computer.
_GIT_READS = re.compile(
    r"[^?]*/(HEAD|info/refs(\?service=git-upload-pack)?|objects/info/(packs|alternates|http-alternates)"
    r"|objects/[0-9a-f]{2}/([0-9a-f]{38}|[0-9a-f]{62})|objects/pack/pack-[0-9a-f]{40,64}\.(pack|idx))"
)
_GIT_ASKS = re.compile(r"[^?]*/git-upload-pack")
_GIT_QUESTION = "application/x-git-upload-pack-request"  # its Content-Type
_GIT_HEADERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "authorization", "content-encoding", "content-length"}
    | {"content-type", "git-protocol", "pragma", "cache-control", "range", "transfer-encoding", "user-agent"}
)
_BETWEEN_TWO = frozenset({"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade"})


@dataclass(frozen=True)
class Rules:
    """Where the way out leads."""

    addresses: tuple[str, ...] = ()  # host:port that may be reached wherever it is
    examples: str = ""  # the portal's own address: of it, /examples/ alone
    git_here: bool = False  # whether git may ask servers on this computer
    neighbours: bool = True  # whether private networks may be reached
    upstream: Mapping[str, str] = field(default_factory=dict)  # proxies of the house, as in the environment


class Refusal(Exception):
    """With a sentence for the program that asked."""


def be(listener: socket.socket, keeper: socket.socket, rules: Rules, user: int | None) -> NoReturn:
    """The life of the way out: until the keeper is gone."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kernel.drop_everything()
    seccomp.confine()
    kernel.hide_process()
    kernel.name_process("way out")
    asyncio.run(_serve(listener, keeper, rules))
    os._exit(0)


async def _serve(listener: socket.socket, keeper: socket.socket, rules: Rules) -> None:
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(keeper, gone.set)
    listener.setblocking(False)
    keeper.setblocking(False)
    way = _WayOut(rules)
    server = await asyncio.start_server(way.connected, sock=listener, limit=_HEAD)
    async with server:
        await gone.wait()


def address_behind(text: str) -> Address:
    """The address that this one leads to in the end."""
    address = ipaddress.ip_address(text.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _CARRIERS) and int(address) > 1:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if address.sixtofour:
            return address.sixtofour
        if address.teredo:
            return address.teredo[1]
    return address


def refusal(text: str, *, neighbours: bool) -> str:
    """Why the way out does not lead to this address; empty when it does."""
    for address in {ipaddress.ip_address(text.split("%")[0]), address_behind(text)}:
        if address.is_loopback or address.is_unspecified or is_own(address):
            return "this computer"
        if address.is_link_local or address.is_multicast or address in _METADATA or address in _NAT64_LOCAL:
            return "nowhere a node may go"
        if address.version == 4 and address.is_reserved:
            return "nowhere a node may go"
        if not neighbours and any(address in network for network in _NEIGHBOURS if network.version == address.version):
            return "a neighbour of this computer"
    return ""


_RTM_GETROUTE, _NLM_F_REQUEST, _NLMSG_ERROR = 26, 1, 2
_RTA_DST, _RTN_UNICAST = 1, 1


def is_own(address: Address) -> bool:
    """Whether the kernel would deliver to itself, or to everybody: it is asked for its route to this very address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    route = struct.pack("BBBBBBBBI", family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    attribute = struct.pack("HH", 4 + len(packed), _RTA_DST) + packed
    size = 16 + len(route) + len(attribute)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernels:
        kernels.settimeout(2)
        kernels.send(struct.pack("IHHII", size, _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + route + attribute)
        answer = kernels.recv(4096)
    if struct.unpack_from("H", answer, 4)[0] == _NLMSG_ERROR:
        return False  # there is no way to it at all, as trying will show
    kind: int = answer[16 + 7]  # rtm_type
    return kind != _RTN_UNICAST


@dataclass
class _Request:
    method: str
    target: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str:
        return next((value for other, value in self.headers if other.lower() == name), "")


class _WayOut:
    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.open = 0
        self.told = {name.lower(): value for name, value in rules.upstream.items()}

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            if self.open > _AT_ONCE:
                raise Refusal(f"More than {_AT_ONCE} connections at once.")
            async with asyncio.timeout(_HEAD_WITHIN):
                request = _parse(await reader.readuntil(b"\r\n\r\n"))
            if request.method == "CONNECT":
                await self._tunnel(request, reader, writer)
            else:
                await self._forward(request, reader, writer)
        except Refusal as why:
            _answer(writer, 403, str(why))
        except (ValueError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            _answer(writer, 400, "This is no request that a proxy understands.")
        except (OSError, TimeoutError) as error:
            _answer(writer, 502, str(error) or type(error).__name__)
        finally:
            self.open -= 1
            with contextlib.suppress(OSError):
                writer.close()

    async def _tunnel(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = _host_and_port(request.target)
        far_reader, far_writer = await self._connect(host, port, "https")
        try:
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await _both_ways(reader, writer, far_reader, far_writer)
        finally:
            far_writer.close()

    async def _forward(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A request for plain http. One a connection: what follows it is nobody's to smuggle."""
        parts = urlsplit(request.target)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("no http:// address")
        port = parts.port or 80
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        host_header = name if port == 80 else f"{name}:{port}"
        headers = [pair for pair in request.headers if pair[0].lower() not in _BETWEEN_TWO | {"host"}]
        if self._is_for_git(request, parts, path):
            headers = [pair for pair in headers if pair[0].lower() in _GIT_HEADERS]
            far_reader, far_writer = await self._connect_here(parts.hostname, port)
        elif (proxy := self._proxy_for(parts.hostname, "http")) and not self._is_named(parts.hostname, port):
            await self._look_at(parts.hostname, port, must_be_known=False)
            path = f"http://{host_header}{path}"  # not as it was written, which the proxy might read otherwise
            far_reader, far_writer = await _open(*proxy.place)
            headers += proxy.credentials
        else:
            far_reader, far_writer = await self._connect(parts.hostname, port, "http")
        try:
            lines = [f"{request.method} {path} HTTP/1.1", f"Host: {host_header}", "Connection: close"]
            lines += [f"{key}: {value}" for key, value in headers]
            far_writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            flow = _Flow()
            sending = asyncio.ensure_future(_copy_body(request, reader, far_writer))
            sending.add_done_callback(lambda task: far_writer.close() if task.cancelled() or task.exception() else None)
            await flow.until_the_end(_left_after(sending, reader), flow.copy(far_reader, writer), first=True)
        finally:
            far_writer.close()

    def _is_for_git(self, request: _Request, place: SplitResult, path: str) -> bool:
        """Whether this is one of the few questions that a server on this computer may be asked."""
        host, port, method = place.hostname or "", place.port or 80, request.method
        reads = method in {"GET", "HEAD"} and _GIT_READS.fullmatch(path)
        asks = method == "POST" and _GIT_ASKS.fullmatch(path) and request.header("content-type") == _GIT_QUESTION
        if (not reads and not asks) or ".." in path or "%" in path:
            return False
        portal = urlsplit(self.rules.examples)
        if portal.scheme == "http" and port == (portal.port or 80):
            both_here = _is_loopback(host) and _is_loopback(portal.hostname or "")
            if both_here or host == portal.hostname:  # it has more than one name here
                return path.startswith("/examples/")
        return self.rules.git_here and _is_loopback(host)

    def _is_named(self, host: str, port: int) -> bool:
        """Whether the administrator's own settings lead there."""
        portal = urlsplit(self.rules.examples)
        is_portal = portal.scheme == "https" and (host, port) == (portal.hostname, portal.port or 443)
        return is_portal or f"{host}:{port}" in self.rules.addresses

    def _proxy_for(self, host: str, scheme: str) -> _Proxy | None:
        url = self.told.get(f"{scheme}_proxy") or self.told.get("all_proxy")
        if not url or _is_near(host, self.told.get("no_proxy", "")):
            return None
        return _Proxy.of(url)

    async def _look_at(self, host: str, port: int, *, must_be_known: bool = True) -> list[str]:
        """The addresses of a name, each of which may be reached."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            if must_be_known:
                raise OSError(errno.EHOSTUNREACH, f"{host} is not known: {error.strerror or error}") from error
            return []
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._is_named(host, port):
            for address in addresses:
                if why := refusal(address, neighbours=self.rules.neighbours):
                    raise Refusal(f"{host} is {why}, which nodes do not reach.")
        return addresses

    async def _connect(self, host: str, port: int, scheme: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        proxy = None if self._is_named(host, port) else self._proxy_for(host, scheme)
        addresses = await self._look_at(host, port, must_be_known=proxy is None)
        if proxy is None:
            return await _open_any(addresses, port)
        reader, writer = await _open(*proxy.place)
        name = f"[{host}]" if ":" in host else host
        lines = [f"CONNECT {name}:{port} HTTP/1.1", f"Host: {name}:{port}"]
        lines += [f"{key}: {value}" for key, value in proxy.credentials]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        async with asyncio.timeout(_CONNECT_WITHIN):
            head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            writer.close()
            raise OSError(errno.ECONNREFUSED, f"the proxy of this house answered {head[:60].decode('latin-1')!r}")
        return reader, writer

    async def _connect_here(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return await _open_any([str(entry[4][0]) for entry in found], port)


@dataclass(frozen=True)
class _Proxy:
    place: tuple[str, int]
    credentials: list[tuple[str, str]]

    @classmethod
    def of(cls, url: str) -> _Proxy:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise OSError(errno.EPROTONOSUPPORT, "the proxy of this house is of a kind that nodes cannot use")
        credentials = []
        if parts.username:
            said = base64.b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode()
            credentials.append(("Proxy-Authorization", f"Basic {said}"))
        return cls((parts.hostname, parts.port or 80), credentials)


def _is_near(host: str, near: str) -> bool:
    """Whether `no_proxy` names the host, or a domain that it is in."""
    words = [word.strip().lstrip(".").lower() for word in near.split(",") if word.strip()]
    return any(word == "*" or f".{host.lower()}".endswith(f".{word}") for word in words)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(head: bytes) -> _Request:
    first, *lines = head.decode("latin-1")[:-4].split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1.") or not re.fullmatch(r"[A-Z]{1,20}", method):
        raise ValueError(first)
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or re.search(r"[\r\n\0]", value):
            raise ValueError(line)
        headers.append((name, value.strip()))
    if re.search(r"[\x00-\x20\x7f]", target):
        raise ValueError(target)
    lengths = [name for name, _ in headers if name.lower() in ("content-length", "transfer-encoding")]
    if len(lengths) > 1:  # whoever is asked might go by another one than we do
        raise ValueError("a body of two lengths")
    return _Request(method, target, headers)


def _host_and_port(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    number = int(port)
    if not host or not 0 < number < 65536:
        raise ValueError(target)
    return host.strip("[]"), number


def _answer(writer: asyncio.StreamWriter, status: int, sentence: str) -> None:
    body = f"{sentence}\n".encode()
    reason = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway"}[status]
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    with contextlib.suppress(OSError):
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)


async def _open(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(_CONNECT_WITHIN):
        return await asyncio.open_connection(host, port, limit=_HEAD)


async def _open_any(addresses: list[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The first of these addresses that answers."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError, TimeoutError):
            return await _open(address, port)
    return await _open(addresses[-1], port)


class _Flow:
    """What goes through one connection. When one side has closed, its program may be gone, and the other side may never
    close: then that one may be silent for so long and no longer."""

    def __init__(self) -> None:
        self.moved = 0

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
            self.moved += len(block)

    async def until_the_end(self, near: Awaitable[None], far: Awaitable[None], *, first: bool = False) -> None:
        """Wait for both; with `first`, not for what the program may still say when the far side has ended."""
        waiting = {asyncio.ensure_future(near), last := asyncio.ensure_future(far)}
        everything = set(waiting)
        try:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            while waiting and not (first and last.done()):
                before = self.moved
                _, waiting = await asyncio.wait(waiting, timeout=_HALF_OPEN)
                if self.moved == before:
                    return
            if last.done() and not last.cancelled() and (error := last.exception()):
                raise error
        finally:
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)


async def _left_after(sending: asyncio.Future[None], reader: asyncio.StreamReader) -> None:
    """Until the program has closed its side, once its request is sent."""
    try:
        await asyncio.wait([sending])
        while await reader.read(_BLOCK):
            pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    async def one_way(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await flow.copy(source, sink)
        with contextlib.suppress(OSError):
            sink.write_eof()

    flow = _Flow()
    await flow.until_the_end(one_way(reader, far_writer), one_way(far_reader, writer))


async def _copy_body(request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The body of this request, as long as it says to be, and not a byte more."""
    chunked = request.header("transfer-encoding").lower()
    length = request.header("content-length")
    if chunked and chunked != "chunked":
        raise ValueError(chunked)
    if chunked:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            writer.write(b"%x\r\n" % size)
            await _copy_exactly(size, reader, writer)
            await reader.readexactly(2) if size else await _skip_trailers(reader)
            writer.write(b"\r\n")
            await writer.drain()
            if not size:
                return
    elif length:
        if not length.isdecimal():
            raise ValueError(length)
        await _copy_exactly(int(length), reader, writer)


async def _skip_trailers(reader: asyncio.StreamReader) -> None:
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass


async def _copy_exactly(size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while size:
        block = await reader.readexactly(min(size, _BLOCK))
        size -= len(block)
        writer.write(block)
        await writer.drain()
