"""What pages load: it is there, it is used, and it is little."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import brotli
import pytest
from django.conf import settings

_spec = importlib.util.spec_from_file_location("assets", settings.BASE_DIR / "bin" / "assets.py")
assert _spec is not None
assert _spec.loader is not None
assets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(assets)
STATIC = settings.BASE_DIR / "static"
# Names that scripts and tests look for, and that look like nothing.
HOOKS = {"brand-ink", "is-fresh"}


def loaded(*templates):
    """The files that a template's head names."""
    source = "".join((settings.BASE_DIR / "templates" / name).read_text() for name in templates)
    return [STATIC / name for name in re.findall(r'\{% static "([^"]+)" %\}', source)]


def test_what_is_made_of_bootstrap_is_what_pages_use_now():
    for made, path in ((assets.bootstrap, "bootstrap/bootstrap.css"), (assets.icons, "bootstrap-icons/icons.css")):
        assert (STATIC / "vendor" / path).read_text() == made(), "run bin/assets"


def test_every_class_of_a_template_has_a_rule():
    css = "".join(path.read_text() for path in STATIC.rglob("*.css"))
    ruled = set(re.findall(r"\.([a-zA-Z][\w-]*)", css)) | HOOKS
    scripts = "".join(path.read_text() for path in assets.SCRIPTS)
    without = {
        f"{path.relative_to(settings.BASE_DIR)}: {name}"
        for path in assets.TEMPLATES
        for name in assets.classes_in_template(path.read_text())
        if name not in ruled and name != "bi" and f".{name}" not in scripts
    }
    assert without == set()


def test_every_icon_of_a_page_is_drawn():
    drawn = set(re.findall(r"^\.bi-([a-z0-9-]+)\{", (STATIC / "vendor/bootstrap-icons/icons.css").read_text(), re.M))
    assert assets.used_icons() <= drawn
    assert {"box", "broadcast", "check-circle-fill", "play"} <= drawn  # of a template, a script, a badge and a plan


@pytest.mark.parametrize("name", ["box", "play"])
def test_icons_that_do_not_exist_are_named(name, monkeypatch):
    monkeypatch.setattr(assets, "used_icons", lambda: {name, "no-such-icon"})
    with pytest.raises(SystemExit, match="no-such-icon"):
        assets.icons()


def test_a_page_weighs_little():
    files = loaded("_head.html", "base.html")
    assert len(files) == 9
    packed = {path.name: len(brotli.compress(path.read_bytes())) for path in files}
    assert sum(size for name, size in packed.items() if name.endswith(".css")) < 25_000
    assert sum(size for name, size in packed.items() if name.endswith(".js")) < 30_000
    assert sum(path.stat().st_size for path in Path(STATIC / "vendor/ibm-plex").glob("*.woff2")) < 80_000
