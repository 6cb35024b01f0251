"""The SSH server of many nodes: at every address of 127.0.0.0/8, on one port. `nodes.py HOST_KEY_FILE PUBLIC_KEY`."""

from __future__ import annotations

import asyncio
import ctypes
import resource
import sys
from pathlib import Path

import asyncssh


class Door(asyncssh.SSHServer):
    def connection_made(self, conn):
        self.connection = conn

    def begin_auth(self, username):
        self.connection.set_authorized_keys(asyncssh.import_authorized_keys(sys.argv[2]))
        return True


async def main():
    server = await asyncssh.listen(
        "0.0.0.0",
        0,
        backlog=4096,
        server_factory=Door,
        server_host_keys=[asyncssh.import_private_key(Path(sys.argv[1]).read_text())],
        process_factory=lambda process: process.exit(0),
        encoding=None,
        compression_algs=None,
    )
    print(server.get_port(), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: gone with the benchmark
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main())
