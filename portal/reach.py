"""Connections to addresses that people write: not to the portal itself, and not out of the networks that are allowed.

What comes of an attempt tells whether something listens there. So whoever may write addresses learns of each network
that the portal reaches; which ones, whoever runs the portal decides.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from django.conf import settings

from portal.errors import Refused


def why_not(address: str) -> str:
    """Why nothing is connected to at this IP address, as the end of a sentence; empty where it may be."""
    found = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(found, "ipv4_mapped", None) or found
    if settings.MACHINES_NETWORKS:
        is_in = any(ip in network for network in settings.MACHINES_NETWORKS)
        return "" if is_in else "it is in none of the networks in which computers may be"
    if ip.is_loopback or ip.is_unspecified:
        return "that is the portal itself"
    if ip.is_link_local or ip.is_multicast:
        return "that is no address by which other computers are reached"
    return ""


async def connect(address: str, port: int) -> socket.socket:
    """A connection to this name or IP address. Raises `OSError`, and `Refused` where that is not allowed.

    A name is asked for once: what was looked at is what is connected to.
    """
    loop = asyncio.get_running_loop()
    places = await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    for *_, where in places:
        if why := why_not(str(where[0])):
            leads = f"{address} leads to {where[0]}" if where[0] != address else address
            raise Refused(f"The portal does not connect to {leads}: {why}.", code="not_allowed")
    trouble: OSError | None = None
    for family, kind, protocol, _, where in places:
        way = socket.socket(family, kind, protocol)
        try:
            way.setblocking(False)
            await loop.sock_connect(way, where)
        except OSError as error:
            way.close()
            trouble = error
        except BaseException:
            way.close()
            raise
        else:
            return way
    raise trouble or OSError("the name has no address")
