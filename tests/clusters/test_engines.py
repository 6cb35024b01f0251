"""Engine versions on the shared filesystem: what no cluster has any more goes."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from clusters import plans
from clusters.models import Cluster, EngineVersion

pytestmark = pytest.mark.django_db


def test_an_engine_version_that_no_cluster_has_is_removed(lab, tmp_path, monkeypatch):
    mpi = EngineVersion.objects.get(kind="mpi")
    old, other = (EngineVersion.objects.create(kind="bodo", version=v, packages=[]) for v in ("2026.7", "2026.8"))
    of = {"instance_type": "local.1", "cores_per_node": 1, "node_count": 1, "workspace": lab}
    mine = Cluster.objects.create(name="tide", engine_version=mpi, status="running", **of)
    Cluster.objects.create(name="made-now", engine_version=other, status="inprogress", **of)
    Cluster.objects.create(name="gone", engine_version=old, status="terminated", **of)
    engines = tmp_path / ".engines"
    for name in (mpi.slug, old.slug, other.slug, "$(touch pwned)", "a b"):
        (engines / name).mkdir(parents=True)
        (engines / f"{name}.lock").touch()
    (engines / ".install-x").mkdir()
    monkeypatch.setattr(plans.ssh, "run", lambda host, command: subprocess.run(["bash", "-c", command], check=True))
    plans._remove_other_engines(mine, SimpleNamespace(host=None, shared=str(tmp_path)))
    kept = sorted(path.name for path in engines.iterdir() if path.is_dir())
    assert kept == sorted([".install-x", mpi.slug, other.slug])
    assert not list(tmp_path.rglob("pwned"))
