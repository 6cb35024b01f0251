from __future__ import annotations

import pytest

from portal.secrets import CannotDecrypt, decrypt, encrypt, redact

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
