"""What docs/aws.md says of EFA is true of the MPICH that nodes get: it goes by UCX, and does not find its plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portal.clouds import bootstrap

PREFIX = Path(sys.prefix)
LIBFABRIC = PREFIX / "lib/mpich/libfabric.so.1"
PLUGIN = PREFIX / "lib/mpich/libfabric/libefa-fi.so"
ASK = """
import ctypes
lib = ctypes.CDLL({library!r})
words = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p]
lib.fi_getinfo.argtypes = words
lib.fi_getinfo((1 << 16) | 20, None, None, 0, None, ctypes.byref(ctypes.c_void_p()))
"""


def providers(**more):
    """What its libfabric says of those that it has, while it is asked what there is."""
    asked = [sys.executable, "-c", ASK.format(library=str(LIBFABRIC))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FI_")} | more
    done = subprocess.run(
        asked, env=environment | {"FI_LOG_LEVEL": "info"}, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stderr


@pytest.fixture(autouse=True)
def _wheel():
    if not LIBFABRIC.exists():
        pytest.skip("MPICH for this computer comes without libfabric")


def test_mpich_takes_ucx_before_libfabric():
    said = subprocess.run([PREFIX / "bin/mpichversion"], capture_output=True, text=True, timeout=30, check=True).stdout
    (device,) = (line.split()[-2:] for line in said.splitlines() if line.startswith("MPICH Device:"))
    assert device == ["ch4:ucx", "ofi"]


def test_its_libfabric_has_tcp_and_does_not_find_efa_by_itself():
    assert "registering provider: tcp" in providers()
    assert "libefa" not in providers()
    assert "libefa" in providers(FI_PROVIDER_PATH=str(PLUGIN.parent)), "it is looked for there"


def test_its_efa_plugin_needs_what_nodes_do_not_have():
    plugin = PLUGIN.read_bytes()
    assert all(name in plugin for name in (b"\0libefa.so.1\0", b"\0libibverbs.so.1\0"))
    assert not any("verbs" in package or "efa" in package for package in bootstrap._PACKAGES)
