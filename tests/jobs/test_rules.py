"""What a job may be, whoever takes it in."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from jobs import rules


def refused(rule, value):
    """The sentence and the code with which it is."""
    with pytest.raises(ValidationError) as caught:
        rule(value)
    return caught.value.message, caught.value.code


@pytest.mark.parametrize(
    ("url", "sentence", "code"),
    [
        ("https://github.com", "names a server and no repository", "no_repository"),
        ("https://github.com/", "names a server and no repository", "no_repository"),
        ("git@github.com:team/project.git", "This one is ssh://git@github.com/team/project.git", "scheme"),
        ("http://git.example.org/x", "Try https://git.example.org/x", "scheme"),
        ("ftp://git.example.org/x", "Begin with https:// or ssh://.", "scheme"),
        ("https://u:p@git.example.org/x", "Leave the user name and password out", "password"),
        ("https://[::1/x", "not a web address", "no_address"),
        ("https://h/a b", "not a web address", "no_address"),
        ("https://h/" + "x" * 500, "at most 500 characters", "too_long"),
    ],
)
def test_an_address_that_cannot_be_cloned_is_refused_with_the_way_out(url, sentence, code):
    said, coded = refused(rules.git_url, url)
    assert sentence in said
    assert coded == code


@pytest.mark.parametrize(
    "command", ["main", "main run.py", "-u", "-m", "-X faulthandler main", "hello.txt", "-W error"]
)
def test_a_command_that_names_no_python_file_is_refused(command):
    assert refused(rules.command, command)[1] == "no_python_file"


@pytest.mark.parametrize(
    "command",
    ["a.py", "src/main --x", "./main", "-m package.module -v", "-c 'print(1)'", "-X faulthandler a.py",
     "-u -W error a.py", "app.pyz", "  a.py 1  "],
)  # fmt: skip
def test_a_file_a_module_or_code_is_a_command(command):
    assert rules.command(command) == command.strip()


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "tide\u202eevil", "a\tb", "a\u200bb"])
def test_a_name_that_cannot_be_seen_or_is_too_long_is_refused(name):
    assert refused(rules.name, name)[1] in {"required", "too_long", "invisible"}


@pytest.mark.parametrize("name", ["Flut 2026", "日本", "<script>", "e\u0301tude"])
def test_other_names_are_kept_as_they_are(name):
    assert rules.name(f" {name} ") == name


def test_a_time_limit_is_given_in_minutes_and_kept_in_seconds():
    assert rules.time_limit(None) is None
    assert rules.time_limit(90) == 5400
    for minutes in (0, -1, rules.MOST_MINUTES + 1):
        assert refused(rules.time_limit, minutes)[1] == "out_of_range"


def test_two_addresses_are_of_one_server_or_not():
    assert rules.same_server("https://h/a", "https://h/b.git")
    for other in ("https://other/a", "http://h/a", "ssh://h/a", "https://h:8443/a"):
        assert not rules.same_server("https://h/a", other)
