"""Who may sign in to the computers of a pool: whoever has a certificate of its authority, which is here alone.

No private key of ours is on a computer but a cluster's own. Whatever runs there may copy it and its certificate, which
does not end: it forces the cluster's `enter`, which goes when the cluster does, and opens no port.
"""

from __future__ import annotations

import time
from functools import lru_cache

from portal import secrets, ssh
from portal.clouds.machines.models import Computer, Pool

# Executed by the account's login shell, and each of them reads it alike. What is to be done is in a variable.
_ANYTHING = "/bin/sh -c 'eval \"$SSH_ORIGINAL_COMMAND\"'"
_KEY_SECONDS = 12 * 3600  # for which a key of the portal's own is used; its certificate is good for longer


def new_authority(pool: Pool) -> None:
    """Give the pool, which the caller then saves, an authority of its own."""
    private, pool.key_public = ssh.new_key(f"coxswain {pool.name}")
    secrets.seal(pool, "key_private", private)


def sign(
    pool: Pool,
    public_key: str,
    key_id: str,
    *,
    seconds: float | None = None,
    command: str = "",
    forwards: bool = False,
) -> str:
    """A certificate by which this key signs in to the computers of the pool as its account, in OpenSSH's format.

    Their logs name it by `key_id`, such as "cluster UUID". It ends after so many seconds; without, never. With a
    `command`, that is all it is for, and only whoever `forwards` is led to ports, see `ssh.sign`. Raises
    `portal.secrets.CannotDecrypt`.
    """
    authority, principals = secrets.unseal(pool, "key_private"), [pool.principal]
    return ssh.sign(
        authority, public_key, name=key_id, principals=principals, seconds=seconds, command=command, forwards=forwards
    )


def host(pool: Pool, computer: Computer) -> ssh.Host:
    """A computer, for what is done on it as the pool's account, whatever is the login shell of that."""
    private, certificate = _own(pool, pool.key_private, int(time.time() / _KEY_SECONDS))
    return ssh.Host(
        str(computer),
        computer.address,
        computer.port,
        pool.user,
        private,
        computer.host_public,
        certificate=certificate,
    )


@lru_cache(maxsize=256)
def _own(pool: Pool, _authority: str, _turn: int) -> tuple[str, str]:
    """A key of this process alone, for a while, and its certificate."""
    private, public = ssh.new_key("portal")
    return private, sign(pool, public, "the portal", seconds=2 * _KEY_SECONDS, command=_ANYTHING)
