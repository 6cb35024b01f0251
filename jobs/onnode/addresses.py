"""Where a Git server may be: the rules for what a person typed, a server redirected to, or a submodule names."""

import encodings.idna  # noqa: F401 (looking up the first name would load it, while a person waits)
import ipaddress
import os
import re
import socket
import urllib.parse

from programs import SetupFailed

PORTS = {"https": 443, "http": 80, "ssh": 22}
# Of clouds: who asks there learns the keys of the machine. Most are link-local, which is refused anyway.
METADATA = {ipaddress.ip_address(text) for text in ("fd00:ec2::254", "168.63.129.16", "100.100.100.200", "192.0.0.192")}
EMBEDDED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 in IPv6, RFC 6052
HOST = re.compile(r"[\w](?:[\w.-]*[\w])?|[0-9a-f:.]+")
SCP = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//)(?!\d+/)[^:]+")  # what ssh's users write for ssh://
CHECK = "Check the address in the job's path."
ADDRESS = "address"  # the code of what that would mend
HERE_ONLY = "Plain http is only for a Git server on this machine. Use https."


class Server:
    """A repository's address that was checked. `options` are those with which git goes there and nowhere else."""

    def __init__(self, url, allow_this_machine):
        """Raises `SetupFailed`.

        A name is looked up here, once, and pinned, so that it cannot point elsewhere the second time it is asked for.
        """
        parts = _split(url)
        self.scheme = parts.scheme
        self.host = _in_ascii(parts.hostname)
        port = parts.port or PORTS[parts.scheme]
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        self.origin = f"{self.scheme}://{bracketed}:{port}"
        # As git is to see it, so that it is the host that was checked and pinned and no other spelling of one.
        whom = f"{parts.username}@" if parts.username else ""
        self.url = parts._replace(netloc=f"{whom}{bracketed}{f':{parts.port}' if parts.port else ''}").geturl()
        # Those that were checked, as far as it was looked up here; and as text, where one is connected to.
        self.options, self.addresses, self.pinned = [], [], []
        try:
            found = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if self.scheme == "https" and proxy_of(self.scheme, self.host, port):
                return  # which looks it up itself, and has rules of its own
            raise SetupFailed(f"{self.host} is not known.", str(error), CHECK, ADDRESS) from error
        addresses = [ipaddress.ip_address(entry[4][0].split("%")[0]) for entry in found]
        self.addresses = [_inner(address) for address in addresses]
        self.pinned = list(dict.fromkeys(map(str, addresses)))
        here = True
        for address in self.addresses:
            here = here and address.is_loopback and allow_this_machine
            if (
                address.is_link_local
                or address.is_multicast
                or address.is_unspecified
                or address in METADATA
                or (address.is_loopback and not allow_this_machine)
            ):
                raise SetupFailed(f"{self.host} is at {address}, where no Git server may be.", code=ADDRESS)
        if self.scheme == "http" and not here:
            raise SetupFailed(HERE_ONLY, code=ADDRESS)
        if self.scheme != "ssh" and not _is_address(self.host):
            pinned = ",".join(f"[{address}]" if ":" in address else address for address in self.pinned)
            self.options = ["-c", f"http.curloptResolve={self.host}:{port}:{pinned}"]

    def redirected(self, location, allow_this_machine):
        """Where the repository is that this one's server says is at `location`; checked like what a person types."""
        to = urllib.parse.urljoin(f"{self.url}/info/refs", location)
        to, found, _ = to.partition("/info/refs")
        if not found:
            raise SetupFailed(
                f"{self.host} leads to {shown(to)}, which is no repository.",
                "",
                "Look with a browser where the repository is, and whether one has to sign in there.",
                "source",
            )
        try:
            parts = _split(to)
            if parts.scheme not in ("https", "http") or (self.scheme, parts.scheme) == ("https", "http"):
                raise SetupFailed(HERE_ONLY, code=ADDRESS)
            return Server(to, allow_this_machine)
        except SetupFailed as failure:
            raise SetupFailed(f"{self.host} leads to {shown(to)}. {failure}", **_rest(failure)) from failure


def of_submodule(text, parent):
    """The address of a submodule of the repository at `parent`, for which `text` stands in .gitmodules.

    Raises `SetupFailed` for what is no address.
    """
    if text.startswith(("./", "../")):
        # As git-submodule(1) has it: the address of the repository is taken for a folder.
        parts = urllib.parse.urlsplit(parent.rstrip("/"))
        folders = parts.path.split("/")
        while text.startswith(("./", "../")):
            if text.startswith("../"):
                if len(folders) < 2:
                    raise SetupFailed(f"{shown(text)} leads out of {parts.hostname}.")
                folders.pop()
            text = text.partition("/")[2]
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc, "/".join([*folders, text]), "", ""))
    if SCP.fullmatch(text):
        whom, _, path = text.partition(":")
        text = f"ssh://{whom}/{path.lstrip('/')}"
    parts, above = _split(text), urllib.parse.urlsplit(parent)
    if parts.scheme == "ssh" and above.scheme == "https" and parts.hostname == above.hostname:
        # Nodes have no key for ssh, and the same server has it where the repository itself was found.
        return urllib.parse.urlunsplit(("https", above.netloc, parts.path, "", ""))
    return text


def proxy_of(scheme, host, port):
    """The address of what leads to a server from here, as curl takes it from the environment; "" where nothing does."""
    names = ("https_proxy", "HTTPS_PROXY") if scheme == "https" else ("http_proxy",)
    found = next(filter(None, map(os.environ.get, (*names, "all_proxy", "ALL_PROXY"))), "")
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if exceptions == "*" or any(_is_within(host, port, word.strip()) for word in exceptions.split(",")):
        return ""
    return found


def shown(text):
    """For a sentence: of a bounded length, without control characters and without what may be a password."""
    text = re.sub(r"//[^/@]*@", "//", text)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _split(url):
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 (raises when it is none)
    except ValueError as error:
        raise SetupFailed("This is not a web address.", str(error), CHECK, ADDRESS) from error
    if parts.scheme not in PORTS or not parts.hostname:
        raise SetupFailed("A Git URL begins with https:// or ssh://.", code=ADDRESS)
    if parts.password or (parts.username and parts.scheme != "ssh"):
        raise SetupFailed("A Git URL has no user name and password in it.", code=ADDRESS)
    if re.search(r"[\x00-\x20\x7f]", url) or not HOST.fullmatch(parts.hostname):
        raise SetupFailed("This is not a web address.", shown(url), CHECK, ADDRESS)
    return parts


def _in_ascii(host):
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise SetupFailed("This is not a web address.", str(error), CHECK, ADDRESS) from error


def _inner(address):
    """The IPv4 address that an IPv6 one stands for, or itself."""
    if address.version == 6 and address in EMBEDDED:
        return ipaddress.ip_address(int(address) & 0xFFFFFFFF)
    return getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address


def _is_address(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_within(host, port, name):
    """Whether NO_PROXY means a host by this name: of its own, of a domain or of a network."""
    name = name.lstrip(".")
    if not name:
        return False
    if host == name or f"{host}:{port}" == name or host.endswith(f".{name}"):
        return True
    try:
        return "/" in name and ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _rest(failure):
    return {name: failure.facts[name] for name in ("evidence", "advice", "code")}
