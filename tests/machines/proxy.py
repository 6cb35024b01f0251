"""The way to package indexes for computers that have none: an HTTP proxy, as many a house has one."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading


class _Tunnel(socketserver.StreamRequestHandler):
    """CONNECT, and no other method: indexes are asked by https."""

    def handle(self) -> None:
        words = self.rfile.readline(4096).decode(errors="replace").split()
        while self.rfile.readline(4096).strip():
            pass
        if len(words) != 3 or words[0] != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
            return
        host, _, port = words[1].rpartition(":")
        try:
            far = socket.create_connection((host.strip("[]"), int(port)), 20)
        except OSError:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        with far:
            far.settimeout(None)
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(far, self.connection), daemon=True)
            back.start()
            _pass_on(self.connection, far)
            back.join()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


class Proxy(socketserver.ThreadingTCPServer):
    """Listens at an address of this computer until it is closed."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Tunnel)
        self.url = f"http://{address}:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
