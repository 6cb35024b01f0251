"""A small `ssh` for nodes of a computer without OpenSSH: ssh [-F config] [-p port] [-l user] [-i key] host command…

Runs by itself: a copy of this file lies on such a node. Host keys are checked against the known_hosts of the
configuration; an unknown or changed one ends with 255, as OpenSSH does.
"""

from __future__ import annotations

import asyncio
import os
import sys

import asyncssh

_WITH_VALUE = set("BbcDEeFIiJLlmOopQRSWw")


def _arguments(words: list[str]) -> tuple[dict[str, str], str, str]:
    options: dict[str, str] = {}
    while words and words[0].startswith("-") and words[0] != "--":
        word = words.pop(0)[1:]
        while word:
            letter, word = word[0], word[1:]
            if letter in _WITH_VALUE:
                options[letter] = word or (words.pop(0) if words else "")
                break
            options[letter] = ""
    if words and words[0] == "--":
        words.pop(0)
    if not words:
        raise SystemExit("usage: ssh [-F config] [-p port] [-l user] [-i key] host [command]")
    host = words.pop(0)
    if "@" in host:
        options["l"], host = host.rsplit("@", 1)
    return options, host, " ".join(words)


async def _main() -> int:
    options, host, command = _arguments(sys.argv[1:])
    files = [options["F"]] if "F" in options else [os.path.expanduser("~/.ssh/config"), "/etc/ssh/ssh_config"]
    chosen: dict[str, object] = {"config": [file for file in files if os.path.isfile(file)] or None}
    if "p" in options:
        chosen["port"] = int(options["p"])
    if "l" in options:
        chosen["username"] = options["l"]
    if "i" in options:
        chosen["client_keys"] = [options["i"]]
    async with asyncssh.connect(host, connect_timeout=20, keepalive_interval=5, **chosen) as connection:
        process = await connection.create_process(
            command or None,
            stdin=asyncssh.DEVNULL if "n" in options else 0,
            stdout=1,
            stderr=2,
            encoding=None,
        )
        done = await process.wait()
        return 255 if done.exit_status is None else done.exit_status


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(_main()))
    except (OSError, asyncssh.Error) as exc:
        sys.stderr.write(f"ssh: {exc}\n")
        sys.exit(255)
