"""A person's browser without a screen: pages, forms, cookies, and raw live sockets."""

from __future__ import annotations

import base64
import hmac
import http.cookiejar
import json
import re
import struct
import time
import urllib.error
import urllib.parse
import urllib.request

import websockets


class Client:
    def __init__(self, url):
        self.url = url
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def get(self, path, **headers):
        request = urllib.request.Request(self.url + path, headers=headers)
        with self.opener.open(request) as response:
            self.at = response.url.removeprefix(self.url)
            return response.read()

    def form(self, path):
        """The hidden fields of a page's forms."""
        return hidden(self.get(path).decode())

    def send(self, path, fields):
        """Send a form. Returns the page that it leads to, whose address is then `self.at`."""
        data = urllib.parse.urlencode(fields).encode()
        headers = {"Referer": self.url + path, "Origin": self.url}
        with self.opener.open(urllib.request.Request(self.url + path, data, headers)) as response:
            self.at = response.url.removeprefix(self.url)
            return response.read()

    def post(self, path, fields):
        """Fill in the form of a page and send it. Returns where it led to."""
        self.send(path, {**self.form(path), **fields})
        return self.at

    def sign_in(self, email, password):
        self.post("/accounts/login/", {"login": email, "password": password})
        assert "login" not in self.at, self.at
        return self

    @property
    def cookie(self):
        return "; ".join(f"{c.name}={c.value}" for c in self.jar)

    def live(self, path="/live/", **options):
        """The socket of a page, as an async context manager."""
        return websockets.connect(
            self.url.replace("http", "ws", 1) + path,
            additional_headers={"Cookie": self.cookie},
            origin=self.url,
            max_size=None,
            compression=None,
            **options,
        )


def words(response):
    """A page's text as people read it: where its lines break is nobody's business."""
    return " ".join(response.content.decode().split())


def hidden(page):
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))


def code_of(secret):
    """What an authenticator app shows now (RFC 6238: HMAC-SHA-1, 30 seconds, 6 digits)."""
    mac = hmac.digest(base64.b32decode(secret), struct.pack(">Q", int(time.time()) // 30), "sha1")
    (number,) = struct.unpack_from(">I", mac, mac[-1] & 15)
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06}"


def parse(frame):
    size = struct.unpack(">I", frame[:4])[0]
    return json.loads(frame[4 : 4 + size]), frame[4 + size :]


def ask(output, after, *, ended=False, kept=False):
    return json.dumps({"output": output, "after": after, "ended": ended, "kept": kept})
