"""A Git server of the house that the computers are in: on https, with a certificate that they trust."""

from __future__ import annotations

import contextlib
import datetime
import functools
import http.server
import ipaddress
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.machines.computers import Computers


def certificate(address: str, folder: Path) -> Path:
    """The file with it and its key; `certificate`, beside it, has it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the house")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "certificate").write_bytes(pem)
    (folder / "both").write_bytes(pem + key.private_bytes(serialization.Encoding.PEM, *plain))
    return folder / "both"


@contextlib.contextmanager
def serving(computers: Computers, folder: Path) -> Iterator[str]:
    """The beginning of the addresses of repositories that lie in the folder."""
    with serving_at(computers.here, folder) as address:
        computers.trust((folder / "certificate").read_text())
        yield address


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving_at(host: str, folder: Path) -> Iterator[str]:
    """The same without anybody's trust. Its certificate is in the folder."""
    pem = certificate(host, folder)
    server = http.server.ThreadingHTTPServer((host, 0), functools.partial(_Quiet, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"https://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def make_repository(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """With these files in one commit on main; what a server of files alone needs is there too."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(folder)]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "Files"], ["update-server-info"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
