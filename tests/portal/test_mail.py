"""Mail goes out by the server that PORTAL_EMAIL_URL names, and its password to nobody else."""

from __future__ import annotations

import gc
import ssl
import warnings
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address
from smtplib import SMTPAuthenticationError, SMTPNotSupportedError

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.core.mail import get_connection, send_mail
from django.utils.timezone import now

from portal.environment import mail
from portal.mail import goes_out
from tests.running import free_port

USER, PASSWORD = "portal@example.org", "p@ss/w:rd"
WRITTEN = "portal%40example.org:p%40ss%2Fw%3Ard"


@pytest.fixture
def certificate(tmp_path):
    """Of 127.0.0.1, signed by itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now()).not_valid_after(now() + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.public_bytes(Encoding.PEM)
    )
    return path


class Box:
    def __init__(self):
        self.letters = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 (aiosmtpd's name)
        self.letters.append((server.tls_context is not None, envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"


@contextmanager
def running(**rules):
    controller = Controller(Box(), "127.0.0.1", free_port(), **rules)
    controller.start()
    try:
        yield controller
    finally:
        with warnings.catch_warnings():  # it leaves a connection that broke to the garbage collector
            warnings.simplefilter("ignore", ResourceWarning)
            controller.stop()
            gc.collect()


@pytest.fixture
def server(certificate):
    """Takes mail by STARTTLS, from who knows the password."""

    def knows(server, session, envelope, mechanism, data):
        good = data == LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=good, handled=False)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    controller = Controller(
        Box(),
        "127.0.0.1",
        free_port(),
        authenticator=knows,
        auth_required=True,
        tls_context=context,
        require_starttls=True,
    )
    controller.start()
    yield controller
    controller.stop()


@pytest.fixture
def send(settings):
    def send(url):
        for name, value in mail(url).items():
            setattr(settings, name, value)
        connection = get_connection()
        try:
            send_mail("Hello", "A letter.", "portal@example.org", ["bob@example.org"], connection=connection)
        finally:
            connection.close()  # which Django does not where the server is not to its liking

    return send


def test_a_letter_goes_out_by_tls_with_the_password(server, send, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    send(f"smtp://{WRITTEN}@127.0.0.1:{server.port}?starttls=yes")
    ((by_tls, to, text),) = server.handler.letters
    assert (by_tls, to, "A letter." in text) == (True, ["bob@example.org"], True)
    assert goes_out()


def test_a_server_that_nobody_vouches_for_gets_neither_letter_nor_password(server, send):
    with pytest.raises(ssl.SSLCertVerificationError):
        send(f"smtp://{WRITTEN}@127.0.0.1:{server.port}?starttls=yes")
    assert server.handler.letters == []


def test_a_wrong_password_is_an_error(server, send, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(SMTPAuthenticationError):
        send(f"smtp://{WRITTEN}x@127.0.0.1:{server.port}?starttls=yes")


def test_without_tls_where_there_should_be_some_nothing_is_sent(send):
    with running() as plain:
        with pytest.raises(SMTPNotSupportedError):
            send(f"smtp://127.0.0.1:{plain.port}?starttls=yes")
        assert plain.handler.letters == []


def test_into_files(send, tmp_path):
    send(f"file:{tmp_path}/let%20ters")
    (letter,) = (tmp_path / "let ters").iterdir()
    assert "A letter." in letter.read_text()
    assert not goes_out()


@pytest.mark.parametrize(
    ("url", "port", "starttls", "tls"),
    [
        ("smtp://mail.example.org", 587, True, False),
        ("smtp://mail.example.org:2525", 2525, True, False),
        ("smtp://mail.example.org?starttls=no", 25, False, False),
        ("smtps://u:p@mail.example.org", 465, False, True),
        ("smtp://localhost", 25, False, False),
    ],
)
def test_what_an_address_means(url, port, starttls, tls):
    found = mail(url)
    assert (found["EMAIL_PORT"], found["EMAIL_USE_TLS"], found["EMAIL_USE_SSL"]) == (port, starttls, tls)


@pytest.mark.parametrize("url", ["smtp://", "mail.example.org", "https://mail.example.org", "file:", "smtp:///x"])
def test_what_is_no_mail_server_is_refused(url):
    with pytest.raises(ValueError, match="PORTAL_EMAIL_URL must be"):
        mail(url)


def test_a_password_is_not_sent_to_be_read_on_the_way():
    with pytest.raises(ValueError, match="read on the way") as refused:
        mail(f"smtp://{WRITTEN}@mail.example.org?starttls=no")
    assert "p%40ss" not in str(refused.value)
