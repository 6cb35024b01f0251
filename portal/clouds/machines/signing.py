"""How the portal signs in to computers: by certificates of their pool's authority, which their owner trusts by a line.

No private key of ours is on a computer but a cluster's own, and that signs in with a certificate that is of use on the
cluster's computers as long as the cluster has them.
"""

from __future__ import annotations

import time
from functools import lru_cache

from portal import secrets, ssh
from portal.clouds.machines.models import Computer, Pool

# Executed by the account's login shell, whatever that is: each reads it alike. What we want to do is in a variable.
_ANYTHING = "/bin/sh -c 'eval \"$SSH_ORIGINAL_COMMAND\"'"
_HOURS = 12.0  # for which a key of the portal's own is used; its certificate is good for twice as long


def make_authority(pool: Pool) -> None:
    """A new one, into the pool's fields; the caller saves them."""
    private, pool.key_public = ssh.new_key(f"coxswain {pool.name}")
    secrets.seal(pool, "key_private", private)


def principal(pool: Pool) -> str:
    return f"coxswain-{pool.uuid}"


def authorized_key(pool: Pool) -> str:
    """The line that the computers' administrator adds to the account's ~/.ssh/authorized_keys."""
    options = f'cert-authority,restrict,pty,port-forwarding,principals="{principal(pool)}"'
    return f"{options} {' '.join(pool.key_public.split()[:2])} coxswain {pool.name}"


def certify(pool: Pool, public: str, *, names: str, command: str) -> str:
    """A certificate for this key, good as long as what it forces is there."""
    return ssh.certify(
        secrets.unseal(pool, "key_private"), public, names=names, principal=principal(pool), command=command
    )


def host(pool: Pool, computer: Computer) -> ssh.Host:
    """A computer, for what the portal does as the pool's account: checks, folders, and ending what is left."""
    private, certificate = _own(pool.key_private, pool, int(time.time() / 3600 / _HOURS))
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
def _own(sealed: str, pool: Pool, turn: int) -> tuple[str, str]:
    """A key of this process alone, and its certificate."""
    private, public = ssh.new_key("portal")
    return private, ssh.certify(
        secrets.unseal(pool, "key_private"),
        public,
        names="the portal",
        principal=principal(pool),
        command=_ANYTHING,
        until=(turn + 2) * _HOURS * 3600,
    )
