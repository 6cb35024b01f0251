"""The examples' modules, imported from where they lie: each example is a repository of its own, not a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "jobs" / "examples"


def program(path: str) -> ModuleType:
    """Import `flights/parts.py` and the like under a name of its own."""
    place = EXAMPLES / path
    spec = importlib.util.spec_from_file_location(f"example_{place.parent.name}_{place.stem}".replace("-", "_"), place)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
