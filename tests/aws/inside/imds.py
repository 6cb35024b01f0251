"""`imds.py ADDRESS`: the instance metadata service, version 2 alone, on the node's own address.

It returns when it is served: on a real node it is there before anything else is.
169.254.169.254 is no address of a node's own here: SDKs are sent by AWS_EC2_METADATA_SERVICE_ENDPOINT.
"""

from __future__ import annotations

import http.server
import json
import os
import secrets
import sys
from pathlib import Path

PORT = 1338
SAYS = Path("/run/room/metadata")  # {path below /latest: text}, which the room writes
TOKENS: set[str] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        if self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers:
            TOKENS.add(token := secrets.token_urlsafe(32))
            self.reply(200, token)
        else:
            self.reply(400)

    def do_GET(self) -> None:
        said = json.loads(SAYS.read_text())
        path = self.path.removeprefix("/latest")
        if self.headers.get("X-aws-ec2-metadata-token") not in TOKENS:
            self.reply(401)
        elif path in said:
            self.reply(200, said[path])
        else:
            self.reply(404)

    def reply(self, status: int, text: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer((sys.argv[1], PORT), Handler)
    if os.fork() == 0:
        server.serve_forever()
