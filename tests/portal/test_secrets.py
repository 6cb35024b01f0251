from __future__ import annotations

import re
from io import StringIO

import pytest
from allauth.mfa.models import Authenticator
from django.apps import apps
from django.core.management import call_command

from clusters.models import Cluster, EngineVersion, Node
from jobs.models import Job
from portal import secrets
from portal.clouds.machines.models import Pool
from portal.secrets import CannotDecrypt, EncryptedField, decrypt, encrypt, redact, rotated, seal, unseal
from workspaces.models import CloudConfig, Workspace

HERE = "org/cluster/1/key"


def test_a_secret_comes_back_to_where_it_belongs():
    sealed = encrypt("s3cret", belongs_to=HERE)
    assert "s3cret" not in sealed
    assert decrypt(sealed, belongs_to=HERE) == "s3cret"
    assert encrypt("s3cret", belongs_to=HERE) != sealed


@pytest.mark.parametrize("elsewhere", ["org/cluster/2/key", "other/cluster/1/key", "org/cluster/1/other", ""])
def test_moved_to_another_row_it_does_not_open(elsewhere):
    with pytest.raises(CannotDecrypt):
        decrypt(encrypt("s3cret", belongs_to=HERE), belongs_to=elsewhere)


def test_a_changed_bit_is_noticed():
    sealed = encrypt("s3cret", belongs_to=HERE)
    for place in range(12, len(sealed)):
        broken = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        with pytest.raises(CannotDecrypt):
            decrypt(broken, belongs_to=HERE)


def test_a_new_key_encrypts_and_the_old_one_still_opens(settings):
    old = encrypt("s3cret", belongs_to=HERE)
    settings.ENCRYPTION_KEYS = ["n" * 43, *settings.ENCRYPTION_KEYS]
    assert decrypt(old, belongs_to=HERE) == "s3cret"
    new = encrypt("s3cret", belongs_to=HERE)
    settings.ENCRYPTION_KEYS = ["n" * 43]
    assert decrypt(new, belongs_to=HERE) == "s3cret"
    with pytest.raises(CannotDecrypt):
        decrypt(old, belongs_to=HERE)


@pytest.mark.parametrize("text", ["", "v1", "v2:a:b", "v1:00000000:AAAA", "not even close"])
def test_rubbish_does_not_open(text):
    with pytest.raises(CannotDecrypt):
        decrypt(text, belongs_to=HERE)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("git clone https://bob:tok@en@git.example.org/x", "git clone https://•••@git.example.org/x"),
        ("https://:token@host/", "https://•••@host/"),
        ("https://host/path:1@2", "https://host/path:1@2"),
        ("the word hunter22 is said", "the word ••• is said"),
    ],
)
def test_credentials_are_taken_out(text, shown):
    assert redact(text, ["hunter22"]) == shown


NEW = "n" * 43


@pytest.fixture
def sealed(lab, alice):
    """A cloud configuration, a pool, a workspace, two clusters of two nodes, a job, a second factor; with secrets."""
    lab.keep_login_key("login secret", "public")
    seal(lab.cloud_config, "credentials", "cloud secret")
    lab.cloud_config.save()
    pool = Pool(account=lab.cloud_config.uuid, name="desks", user="team", base="/srv/team", key_public="public")
    seal(pool, "key_private", "authority secret")
    pool.save()
    engine = EngineVersion.objects.get(kind="mpi")
    for name in ("tide", "ebb"):
        cluster = Cluster(
            workspace=lab, name=name, instance_type="x", cores_per_node=1, node_count=2, engine_version=engine
        )
        seal(cluster, "key_private", f"{name} secret")
        cluster.save()
        for rank in range(2):
            node = Node(cluster=cluster, rank=rank, hostname=f"{name}-{rank}", host_public="public")
            seal(node, "host_private", f"{name}-{rank} secret")
            node.save()
    job = Job(workspace=lab, cluster=cluster, name="j", git_url="https://git.example.org/x", command="ex.py")
    seal(job, "git_password", "git secret")
    job.save()
    data = {"secret": encrypt("totp secret", belongs_to="mfa"), "used_mask": 3, "plain": "word"}
    Authenticator.objects.create(user=alice, type="totp", data=data)
    return lab


def opened():
    """Every secret, as the portal reads it."""
    data = Authenticator.objects.get().data
    return [
        *(unseal(config, "credentials") for config in CloudConfig.objects.all()),
        *(unseal(pool, "key_private") for pool in Pool.objects.all()),
        *(workspace.login_key for workspace in Workspace.objects.all()),
        *(cluster.key for cluster in Cluster.objects.order_by("pk")),
        *(node.host_key.private for node in Node.objects.order_by("pk")),
        *(unseal(job, "git_password") for job in Job.objects.all()),
        decrypt(data["secret"], belongs_to="mfa"),
    ]


def rotate_keys():
    out = StringIO()
    try:
        call_command("rotate_keys", stdout=out)
    except SystemExit as ending:
        return ending.code, out.getvalue().splitlines()
    return 0, out.getvalue().splitlines()


def test_after_a_rotation_the_old_key_is_useless_and_the_new_one_opens_everything(sealed, settings):
    before, old = opened(), settings.ENCRYPTION_KEYS
    settings.ENCRYPTION_KEYS = [NEW, *old]
    code, lines = rotate_keys()
    assert code == 0
    assert sorted(lines) == [
        "clusters.Cluster.key_private: 2 encrypted anew, 0 were already",
        "clusters.Node.host_private: 4 encrypted anew, 0 were already",
        "jobs.Job.git_password: 1 encrypted anew, 0 were already",
        "jobs.Job.secret_values: 0 encrypted anew, 0 were already",
        "machines.Pool.key_private: 1 encrypted anew, 0 were already",
        "mfa.Authenticator.data: 1 encrypted anew, 0 were already",
        "workspaces.CloudConfig.credentials: 1 encrypted anew, 0 were already",
        "workspaces.GitCredential.secret: 0 encrypted anew, 0 were already",
        "workspaces.Workspace.login_private: 1 encrypted anew, 0 were already",
    ]
    settings.ENCRYPTION_KEYS = [NEW]
    assert opened() == before
    settings.ENCRYPTION_KEYS = old
    for kept in ciphertexts():
        with pytest.raises(CannotDecrypt):
            unsealed(kept)


def ciphertexts():
    """Every stored ciphertext, with where it is, whatever the column is called."""
    for model in apps.get_models():
        for row in model._base_manager.all() if model._meta.managed else ():
            for column in model._meta.local_concrete_fields:
                if "'v1:" in repr(getattr(row, column.attname)):
                    yield row, column


def unsealed(kept):
    row, column = kept
    if isinstance(column, EncryptedField):
        return unseal(row, column.name)
    return decrypt(row.data["secret"], belongs_to="mfa")


def test_whatever_looks_like_a_ciphertext_is_known_to_the_rotation(sealed, settings):
    found = {f"{row._meta.label}.{column.name}": column for row, column in ciphertexts()}
    assert len(found) == 7
    for name, column in found.items():
        assert isinstance(column, EncryptedField) or name in settings.ENCRYPTED_IN_JSON


def test_whatever_is_called_a_secret_is_encrypted_or_a_hash():
    ours = {"portal", "tasks", "machines", "accounts", "workspaces", "usage", "clusters", "jobs"}
    known = {"accounts.User.password", "clusters.Node.private_address", "tasks.Task.key", "jobs.Job.secret_names"}
    for model in apps.get_models():
        for column in model._meta.local_concrete_fields if model._meta.app_label in ours else ():
            if column.is_relation:  # what it leads to is asked for itself
                continue
            name = f"{model._meta.label}.{column.name}"
            if re.search("private|secret|password|credential|token|_key", column.name) and name not in known:
                assert isinstance(column, EncryptedField) or column.name.endswith("_hash"), name


def test_a_rotation_that_was_stopped_goes_on(sealed, settings, monkeypatch):
    settings.ENCRYPTION_KEYS = [NEW, *settings.ENCRYPTION_KEYS]
    before = opened()
    left = iter(range(3))

    def dies(text, *, belongs_to):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rotated(text, belongs_to=belongs_to)

    monkeypatch.setattr(secrets, "rotated", dies)
    with pytest.raises(KeyboardInterrupt):
        list(secrets.rotate(batch=1))
    monkeypatch.setattr(secrets, "rotated", rotated)
    assert opened() == before
    rotations = list(secrets.rotate(batch=1))
    assert sum(one.renewed for one in rotations) + sum(one.already for one in rotations) == 11
    assert sum(one.already for one in rotations) >= 2
    settings.ENCRYPTION_KEYS = [NEW]
    assert opened() == before


def test_what_no_key_opens_is_named_and_the_rest_is_done(sealed, settings):
    lost = Cluster.objects.get(name="tide")
    Cluster.objects.filter(pk=lost.pk).update(key_private=encrypt("x", belongs_to="elsewhere"))
    settings.ENCRYPTION_KEYS = [NEW, *settings.ENCRYPTION_KEYS]
    code, lines = rotate_keys()
    assert code == 1
    assert f"clusters.Cluster.key_private: no key opens the rows {lost.pk}" in lines
    assert "clusters.Node.host_private: 4 encrypted anew, 0 were already" in lines


def test_two_rows_whose_ciphertexts_are_swapped_do_not_open(sealed):
    tide, ebb = Cluster.objects.order_by("pk")
    for one, other in ((tide, ebb), (ebb, tide)):
        Cluster.objects.filter(pk=one.pk).update(key_private=other.key_private)
    first, second = Node.objects.order_by("pk")[:2]
    for one, other in ((first, second), (second, first)):
        Node.objects.filter(pk=one.pk).update(host_private=other.host_private)
    for cluster in Cluster.objects.all():
        with pytest.raises(CannotDecrypt):
            _ = cluster.key
    for node in (first, second):
        node.refresh_from_db()
        with pytest.raises(CannotDecrypt):
            _ = node.host_key


def test_a_secret_goes_into_a_field_that_is_declared_for_it(lab):
    with pytest.raises(AssertionError):
        seal(lab, "login_public", "secret")
