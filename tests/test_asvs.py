from __future__ import annotations

import pytest

from tests.asvs import ROWS, as_page
from tests.running import ROOT


@pytest.mark.parametrize(("file", "test"), sorted({where for _, _, where in ROWS}))
def test_a_test_that_is_named_is_there(file, test):
    assert f"def {test}(" in (ROOT / "tests" / file).read_text()


def test_the_page_about_it_is_current():
    """`python -m tests.asvs > docs/asvs.md` writes it anew."""
    assert (ROOT / "docs" / "asvs.md").read_text() == as_page()
