"""What a job may be, whoever takes it in."""

from __future__ import annotations

import shlex

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
        ("https://h/a\u202eb", "not a web address", "no_address"),
        ("user@host:/srv/project", "This one is ssh://user@host/srv/project", "scheme"),
        ("ssh://-oProxyCommand=x/a/b", "begins with a dash", "no_server"),
        ("ssh://git@-oProxyCommand=x/a/b", "begins with a dash", "no_server"),
        ("ssh://-oProxyCommand=x@host/a/b", "begins with a dash", "no_server"),
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


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("a.py \\\n  --x 1 \\\r\n  --y", "a.py   --x 1   --y"),
        ("a.py 'two\nlines' \\\n 3", "a.py 'two\nlines'  3"),
        ("a.py \"it's\" \\\n '\\\n'", "a.py \"it's\"  '\\\n'"),
        ("a.py \\\\ b", "a.py \\\\ b"),
    ],
)
def test_a_command_goes_on_behind_a_backslash_as_in_a_shell(typed, kept):
    assert rules.command(typed) == kept
    assert "\n" not in shlex.split(rules.command(typed)), "no argument of its own"


@pytest.mark.parametrize("text", ["a.py\nb.py", "a.py 1\n--x 'y\nz'"])
def test_a_second_line_is_no_argument_of_the_first(text):
    assert refused(rules.command, text)[1] == "lines"
    assert refused(rules.notebook, text.replace(".py", ".ipynb"))[1] == "lines"
    assert rules.shell_command(text) == text


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "tide\u202eevil", "a\tb", "a\u200bb"])
def test_a_name_that_cannot_be_seen_or_is_too_long_is_refused(name):
    assert refused(rules.name, name)[1] in {"required", "too_long", "invisible"}


@pytest.mark.parametrize("name", ["Flut 2026", "日本", "<script>", "e\u0301tude", "n\u0645\u06cc\u200c\u062e"])
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


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("https://github.com/a/b", ("https://github.com/a/b", "", "")),
        ("https://github.com/a/b.git", ("https://github.com/a/b.git", "", "")),
        ("https://github.com/a/b/?tab=readme#top", ("https://github.com/a/b/", "", "")),
        ("https://github.com/a/b/tree/v1.2", ("https://github.com/a/b", "v1.2", "")),
        ("https://github.com/a/b/tree/main/demo/x/", ("https://github.com/a/b", "main", "demo/x")),
        ("https://github.com/a/b/blob/3f9c2ab/demo/ex.py", ("https://github.com/a/b", "3f9c2ab", "demo/ex.py")),
        ("https://gitlab.com/a/sub/b/-/blob/main/ex.py", ("https://gitlab.com/a/sub/b", "main", "ex.py")),
        ("https://codeberg.org/a/b/src/branch/main/ex.py", ("https://codeberg.org/a/b", "main", "ex.py")),
        ("https://bitbucket.org/a/b/src/main/", ("https://bitbucket.org/a/b", "main", "")),
        ("ssh://git@host.test/a/tree/main", ("ssh://git@host.test/a/tree/main", "", "")),
    ],
)
def test_the_address_of_a_page_says_the_repository_the_reference_and_the_folder(typed, wanted):
    found = rules.address(typed)
    assert (found.git_url, found.reference, found.path) == wanted


def test_a_page_that_shows_an_option_of_git_is_none():
    with pytest.raises(ValidationError, match="no name of a branch"):
        rules.address("https://github.com/a/b/tree/--upload-pack=touch")


@pytest.mark.parametrize(
    ("command", "path", "wanted"),
    [
        ("ex.py 1", "", "ex.py 1"),
        ("ex.py 1", "demo/x", "demo/x/ex.py 1"),
        ("demo/ex.py", "demo", "demo/ex.py"),
        ("ex.py", "demo/ex.py", "demo/ex.py"),
        ("-m pkg", "demo", "-m pkg"),
    ],
)
def test_the_command_is_where_the_page_was(command, path, wanted):
    assert rules.in_folder(command, path) == wanted


def test_a_page_of_another_file_than_the_commands_is_refused():
    with pytest.raises(ValidationError, match="Let both name the same"):
        rules.in_folder("other.py", "demo/ex.py")


def test_variables_are_a_programs_and_not_the_launchers():
    assert rules.environment([("OMP_NUM_THREADS", "1"), ("A_B", "two\nlines")]) == {
        "OMP_NUM_THREADS": "1",
        "A_B": "two\nlines",
    }
    for name in ("PATH", "LD_PRELOAD", "PYTHONPATH", "GIT_SSH_COMMAND", "HYDRA_ENV", "MPIR_CVAR_X", "BODO_PLATFORM_X"):
        with pytest.raises(ValidationError, match="Choose another name"):
            rules.environment([(name, "x")])
    for name in ("", "1A", "A-B", "A B", "Ä"):
        with pytest.raises(ValidationError, match="name"):
            rules.environment([(name, "x")])
    with pytest.raises(ValidationError, match="twice"):
        rules.environment([("A", "1"), ("A", "2")])
    with pytest.raises(ValidationError, match="kB"):
        rules.environment([("A", "x" * 40_000)])
