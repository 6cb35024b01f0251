from __future__ import annotations

import pytest

from tests import faults
from tests.running import ROOT


@pytest.mark.parametrize(("file", "test"), faults.tests())
def test_a_test_that_is_named_is_there(file, test):
    assert f"def {test}(" in (ROOT / "tests" / file).read_text()


def test_the_page_about_it_is_current():
    """`python -m tests.faults > docs/faults.md` writes it anew."""
    assert (ROOT / "docs" / "faults.md").read_text() == faults.as_page()
