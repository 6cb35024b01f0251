"""Who may sign in to the computers of a pool: whoever has a certificate of its authority, which is here alone."""

from __future__ import annotations

from portal import secrets, ssh
from portal.clouds.machines.models import Pool


def new_authority(pool: Pool) -> None:
    """Give the pool, which the caller then saves, an authority of its own."""
    private, pool.key_public = ssh.new_key(f"coxswain {pool.name}")
    secrets.seal(pool, "key_private", private)


def sign(pool: Pool, public_key: str, key_id: str, *, seconds: float | None = None) -> str:
    """A certificate by which this key signs in to the computers of the pool as its account, in OpenSSH's format.

    Their logs name it by `key_id`, such as "cluster UUID". It ends after so many seconds; without, never.
    Raises `portal.secrets.CannotDecrypt`.
    """
    authority = secrets.unseal(pool, "key_private")
    return ssh.sign(authority, public_key, name=key_id, principals=[pool.principal], seconds=seconds)
