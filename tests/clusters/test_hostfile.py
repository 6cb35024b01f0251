"""The hostfile on /shared: nodes that are added get into it when somebody wants that, and not under their feet."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess

import pytest
from asgiref.sync import async_to_sync
from django.contrib.messages import get_messages

from accounts.models import AuditEvent
from clusters import actions, hostfile, plans, watch
from clusters.models import Cluster, EngineVersion, Node
from portal import secrets, ssh
from portal.errors import Passing
from portal.tasks.watch import Bell

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]


@pytest.fixture
def tide(lab):
    """A cluster of three nodes that answer."""
    lab.keep_login_key(*ssh.new_key("test"))
    engine, _ = EngineVersion.objects.get_or_create(kind="mpi", version="5.0.2", defaults={"packages": []})
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=3, status="running",
        engine_version=engine,
    )  # fmt: skip
    secrets.seal(cluster, "key_private", "key")
    cluster.save()
    for rank in range(3):
        node = Node(
            cluster=cluster, rank=rank, hostname=f"tide-{rank}", host_public="ssh-ed25519 AAAA", state="answers"
        )
        secrets.seal(node, "host_private", "key")
        node.save()
    return cluster


@pytest.fixture
def head(tide, tmp_path):
    """The head node, with a home and a /shared on this machine, and a list of three nodes."""
    node = tide.nodes.get(rank=0)
    node.home, node.shared = str(tmp_path / "its home"), str(tmp_path / "shared")
    node.save()
    (tmp_path / "its home").mkdir()
    (tmp_path / "shared").mkdir()
    listed(tmp_path).write_text(hostfile.text(tide, list(tide.nodes.all())))
    return node


def listed(folder):
    return folder / "its home" / "hostfile"


def shared(folder, cluster):
    return folder / "shared" / f".hostfile-{cluster.uuid}"


def sh(command):
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("before", "says", "stays"),
    [
        (None, "", False),  # a new cluster
        ("", "", False),
        ("tide-0:2\ntide-1:2\ntide-2:2\n", "", True),  # a repair
        ("tide-0:2\ntide-1:2\n", "old", True),  # one was added
        ("tide-0:2\ntide-1:2\ntide-2:2\ntide-3:2\n", "", False),  # one was taken away
        ("tide-0:2\ntide-7:2\n", "", False),  # one was added, and one taken away
        ("tide-0:4\ntide-1:4\n", "", False),  # other cores
        ("rm -rf /\n", "", False),
    ],
)
def test_only_nodes_that_were_added_wait(tide, head, tmp_path, before, says, stays):
    file = shared(tmp_path, tide)
    if before is not None:
        file.write_text(before)
    done = sh(hostfile.settling(tide, head))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, says, "")
    assert file.read_text() == (before if stays else listed(tmp_path).read_text())
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_script_says_its_three_lines_and_takes_the_list_over(tide, head, tmp_path):
    shared(tmp_path, tide).write_text("tide-0:2\n")
    done = sh(hostfile.script(tide, head))
    assert done.stdout.splitlines() == [
        "Successfully obtained a hostfile response",
        "Updating the hostfile with: tide-0 tide-1 tide-2 ",
        "Successfully updated hostfile. Please restart the kernel.",
    ]
    assert shared(tmp_path, tide).read_text() == "tide-0:2\ntide-1:2\ntide-2:2\n"


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_without_a_list_of_nodes_the_script_fails_and_leaves_the_old_one(tide, head, tmp_path, what):
    shared(tmp_path, tide).write_text("tide-0:2\n")
    listed(tmp_path).unlink() if what == "missing" else listed(tmp_path).write_text("")
    assert sh(hostfile.script(tide, head)).returncode != 0
    assert shared(tmp_path, tide).read_text() == "tide-0:2\n"
    assert len(list((tmp_path / "shared").iterdir())) == 1


class Work:
    def __init__(self, cluster):
        self.subject, self.said, self.memo = cluster, [], {}

    def log(self, words):
        self.said.append(words)


@pytest.mark.parametrize("is_old", [True, False])
def test_introducing_nodes_remembers_whether_it_was_left_alone(tide, head, tmp_path, monkeypatch, is_old):
    file = shared(tmp_path, tide)
    file.write_text("tide-0:2\n" if is_old else "")
    Cluster.objects.update(hostfile_is_old=not is_old)
    sent = []

    def run_each(calls):
        sent.extend(calls)
        return [ssh.Answer(0, b"", b"") for _ in calls]

    def check(host, command, **_):
        done = sh(command)
        return ssh.Answer(done.returncode, done.stdout.encode(), b"")

    monkeypatch.setattr(ssh, "run_each", run_each)
    monkeypatch.setattr(ssh, "check", check)
    names = [ssh.Answer(0, node.hostname.encode(), b"") for node in tide.nodes.all()]
    monkeypatch.setattr(ssh, "run_on_all", lambda *_, **__: names)
    work = Work(tide)
    plans.introduce_nodes(work)
    assert Cluster.objects.get().hostfile_is_old is is_old
    assert ("left as it is" in work.said[0]) is is_old
    assert all("/tmp/update_hostfile.sh" in command for _, command, _ in sent)
    assert all(b"Successfully obtained a hostfile response" in files for _, _, files in sent)
    assert not any("/.ssh" in command for _, command, _ in sent), "that folder is people's"


def test_the_page_says_that_it_is_old_and_those_who_run_jobs_bring_it_up_to_date(
    tide, client, bob, vera, monkeypatch, rings
):  # fmt: skip
    Cluster.objects.update(hostfile_is_old=True)
    client.force_login(vera)
    page = client.get(tide.get_absolute_url()).content.decode()
    assert "The hostfile is older than the list of nodes." in page
    assert "Bring it up to date" not in page
    assert client.post(f"/clusters/{tide.uuid}/hostfile/").status_code == 403
    client.force_login(bob)
    assert "Bring it up to date" in client.get(tide.get_absolute_url()).content.decode()

    def refuse(*_, **__):
        raise Passing("tide-0 does not answer.")

    monkeypatch.setattr(ssh, "put", refuse)
    answer = client.post(f"/clusters/{tide.uuid}/hostfile/")
    assert [str(message) for message in get_messages(answer.wsgi_request)] == ["tide-0 does not answer."]
    assert Cluster.objects.get().hostfile_is_old
    written = []
    monkeypatch.setattr(ssh, "put", lambda host, path, data, mode: written.append((host.name, path, data, mode)))
    rings.clear()
    client.post(f"/clusters/{tide.uuid}/hostfile/")
    data = b"tide-0:2\ntide-1:2\ntide-2:2\n"
    assert written == [("tide-0", f"/shared/.hostfile-{tide.uuid}", data, "644")]
    assert "older than" not in client.get(tide.get_absolute_url()).content.decode()
    entry = AuditEvent.objects.get(verb="brought up to date the hostfile of")
    assert (entry.actor_name, entry.subject_name, entry.after) == (bob.email, "tide", {"nodes": 3})
    Cluster.objects.update(status="failed", hostfile_is_old=True)
    client.post(f"/clusters/{tide.uuid}/hostfile/")
    assert len(written) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("current", [True, False])
def test_that_somebody_did_so_on_a_node_is_seen(tide, monkeypatch, rings, current):
    Cluster.objects.update(hostfile_is_old=True)
    asked = []
    monkeypatch.setattr(hostfile, "is_current", lambda cluster, head: asked.append(head.hostname) or current)

    async def watch_a_while():
        bell = Bell()
        watching = asyncio.create_task(watch.HostfileWatcher().run(bell))
        while len(asked) < 2 and not rings:
            bell.ring()
            await asyncio.sleep(0.01)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    async_to_sync(watch_a_while)()
    assert set(asked) == {"tide-0"}
    assert Cluster.objects.get().hostfile_is_old is not current


def test_a_cluster_that_grows_while_its_hostfile_is_written_is_not_taken_for_up_to_date(tide, alice, monkeypatch):
    Cluster.objects.filter(pk=tide.pk).update(hostfile_is_old=True)

    def put(host, path, data, mode):
        Cluster.objects.filter(pk=tide.pk).update(node_count=4, status="scaling")

    monkeypatch.setattr("clusters.actions.ssh.put", put)
    actions.refresh_hostfile(tide, by=alice)
    tide.refresh_from_db()
    assert tide.hostfile_is_old


def test_nodes_that_are_about_to_go_are_not_in_a_hostfile_that_is_written(tide, alice, monkeypatch):
    Cluster.objects.filter(pk=tide.pk).update(hostfile_is_old=True, node_count=2)
    tide.refresh_from_db()
    written = []
    monkeypatch.setattr("clusters.actions.ssh.put", lambda host, path, data, mode: written.append(data.decode()))
    actions.refresh_hostfile(tide, by=alice)
    tide.refresh_from_db()
    assert [line.split(":")[0] for line in written[0].splitlines()] == ["tide-0", "tide-1"]
    assert not tide.hostfile_is_old
