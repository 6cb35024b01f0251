"""The SFTP server of a session: files as the session's own commands see them, and with no more rights than these."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from asyncssh.logging import logger
from asyncssh.sftp import SFTPServer, SFTPServerHandler


class _Input:
    """As much of asyncssh's reader as its SFTP server uses."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self.logger = logger

    def get_extra_info(self, _: str, otherwise: object = None) -> object:
        return otherwise

    async def readexactly(self, size: int) -> bytes:
        return await self._stream.readexactly(size)


class _Output:
    """As much of asyncssh's writer as its SFTP server uses. Written at once: an answer is one packet."""

    def __init__(self) -> None:
        self.channel = self
        self.logger = logger

    def is_closing(self) -> bool:
        return False

    def write(self, block: bytes) -> None:
        left = memoryview(block)
        while left:
            left = left[os.write(1, left) :]

    def close(self) -> None:
        pass


class _Files(SFTPServer):
    def __init__(self) -> None:
        super().__init__(chan=None)  # type: ignore[arg-type]


def serve() -> None:
    """Answer on stdin and stdout until the client has gone."""
    logging.disable(logging.CRITICAL)
    asyncio.run(_serve())


async def _serve() -> None:
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    with open(0, "rb", 0, closefd=False) as stdin:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), stdin)
        reader: Any = _Input(stream)
        writer: Any = _Output()
        await SFTPServerHandler(_Files(), reader, writer, 3).run()
