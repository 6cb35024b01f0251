"""What docs/aws.md says of EFA is true of the MPICH that nodes get, and nodes with EFA get what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from portal.clouds.bootstrap import user_data
from tests.clouds.test_bootstrap import boot

PREFIX = Path(sys.prefix)
MODULE = PREFIX / "lib/mpich/ucx/libuct_ib_efa.so.0"


@pytest.fixture
def wheel():
    if not MODULE.exists():
        pytest.skip("MPICH for this computer comes without UCX")


def test_mpich_takes_ucx_before_libfabric(wheel):
    said = subprocess.run([PREFIX / "bin/mpichversion"], capture_output=True, text=True, timeout=30, check=True).stdout
    (device,) = (line.split()[-2:] for line in said.splitlines() if line.startswith("MPICH Device:"))
    assert device == ["ch4:ucx", "ofi"]


def test_its_ucx_has_efa_as_a_module_that_needs_two_libraries_and_is_looked_for_by_itself(wheel):
    module = MODULE.read_bytes()
    assert all(name in module for name in (b"\0libefa.so.1\0", b"\0libibverbs.so.1\0"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UCX_", "MPIR_"))}
    said = subprocess.run(
        [sys.executable, "-c", "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"],
        env=environment | {"UCX_LOG_LEVEL": "debug", "UCX_MODULE_LOG_LEVEL": "debug", "UCX_LOG_FILE": "stderr"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert said.stdout == "1\n", "it goes without, too"
    tried = [line for line in said.stderr.splitlines() if f"{MODULE.parent}/libuct_ib.so" in line]
    assert tried, "UCX does not look for its module"


def test_nodes_with_efa_get_those_libraries_and_may_lock_memory_and_others_do_not():
    def told(**more):
        config = json.loads(user_data(boot(**more)).partition("\n")[2])
        return config.get("packages", []), {file["path"]: file["content"] for file in config["write_files"]}

    packages, files = told(efa=True)
    assert "ibverbs-providers" in packages, "it brings libefa.so.1 and depends on libibverbs1"
    assert files["/etc/security/limits.d/50-coxswain.conf"] == "* - memlock unlimited\n"
    packages, files = told()
    assert "ibverbs-providers" not in packages
    assert not any("limits" in path for path in files)
