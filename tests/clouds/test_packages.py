"""Nodes find packages where pip and uv of this computer do."""

from __future__ import annotations

import pytest

from portal.clouds.local import packages


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    (folder / ".config" / "pip").mkdir(parents=True)
    (folder / ".config" / "uv").mkdir()
    return folder


def found(home, **variables):
    return packages.sources({"HOME": str(home), "XDG_CONFIG_DIRS": "/nowhere", **variables})


def test_an_index_of_pips_file_is_told_and_let_through(home):
    (home / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = http://127.0.0.1:3141/root/pypi/+simple/\ntrusted-host = 127.0.0.1\n"
    )
    source = found(home)
    assert source.environment["PIP_INDEX_URL"] == "http://127.0.0.1:3141/root/pypi/+simple/"
    assert source.environment["PIP_TRUSTED_HOST"] == "127.0.0.1"
    assert "127.0.0.1:3141" in source.addresses


def test_a_variable_says_more_than_a_file_and_uvs_index_is_let_through(home):
    (home / ".config" / "pip" / "pip.conf").write_text("[global]\nindex-url = https://one.example/simple\n")
    (home / ".config" / "uv" / "uv.toml").write_text(
        '[[index]]\nname = "house"\nurl = "https://uv.example:8443/simple"\n'
    )
    source = found(home, PIP_INDEX_URL="https://two.example/simple")
    assert source.environment["PIP_INDEX_URL"] == "https://two.example/simple"
    assert "two.example:443" in source.addresses
    assert "uv.example:8443" in source.addresses
    assert "one.example:443" not in source.addresses


def test_folders_of_packages_are_shown_and_no_others(home, tmp_path):
    wheels, index, caches = tmp_path / "wheels", tmp_path / "index" / "simple", tmp_path / "cache"
    for folder in (wheels, index, caches):
        folder.mkdir(parents=True)
    source = found(
        home,
        PIP_FIND_LINKS=str(wheels),
        PIP_EXTRA_INDEX_URL=f"file://{index}",
        UV_CACHE_DIR=str(caches),
        PIP_SRC=str(caches),
    )
    assert {wheels, index.parent} <= set(source.places)
    assert caches not in source.places
    assert "UV_CACHE_DIR" not in source.environment
