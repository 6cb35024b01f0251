"""The output of many ranks: whose line it is, whole lines, and the filter."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import faults, rows
from tests.running import until


@pytest.fixture
def task(portal, lab):
    made = portal.call("open_task", workspace=lab)
    yield made
    portal.call("end_task", task=made["task"])


@pytest.fixture
def say(portal, task):
    """Ranks 0 to 5 on three nodes, unless told otherwise."""

    def say(*pieces, nodes=None):
        portal.call("say_ranks", output=task["output"], pieces=pieces, nodes=nodes)

    say(nodes={"hosts": ["tide-0", "tide-1", "tide-2"], "of": {str(rank): rank // 2 for rank in range(6)}})
    return say


@pytest.fixture
def page(open_desk, task):
    page = open_desk(f"/outputs/{task['output']}/")
    page.wait_for_selector("#live:has-text('Live')")
    return page


def shown(page):
    return [(mark, text) for _, mark, text in rows(page)]


def wait_for(page, *texts):
    until(lambda: [text for _, text in shown(page)] == list(texts), what=f"exactly the lines {texts}")


def test_each_line_says_whose_it_is(portal, page, task, say):
    portal.call("say", output=task["output"], data="cloned\n", stream="setup")
    portal.call("say", output=task["output"], data="started\n", stream="portal")
    say([5, "five\n"], [0, "zero\n", "stderr"], [2, "child\n", "stdout", 1])
    wait_for(page, "cloned", "started", "five", "zero", "child")
    assert [mark for mark, _ in shown(page)] == ["set-up", "portal", "r5", "r0 err", "r1.2"]
    said, titles = (
        ["rank 5 on tide-2", "rank 0 on tide-0, stderr", "rank 1.2"],
        "marks => marks.map(mark => mark.title)",
    )
    until(lambda: page.eval_on_selector_all(".rk[title]", titles) == said, what="where ranks run")


def test_a_task_without_ranks_has_no_field_for_them(portal, page, task):
    portal.call("say", output=task["output"], data="one\n", stream="portal")
    page.wait_for_selector(".ln:has-text('one')")
    assert not page.locator("[name=rank]:visible").count()


def test_lines_that_two_ranks_write_at_once_are_whole(page, say):
    say([0, "load 10%"], [1, "hel"], [0, "\rload 50%"])
    wait_for(page, "load 50%", "hel")
    assert [number for number, _, _ in rows(page)] == ["", ""]
    say([1, "lo\n"], [0, "\rload 100%"], [1, "caf\u00e9"])
    wait_for(page, "load 100%", "hello", "caf\u00e9")
    say([0, "\n"], [1, " closed\n"])
    wait_for(page, "load 100%", "hello", "caf\u00e9 closed")
    assert [number for number, _, _ in rows(page)] == ["2", "1", "3"]


def test_a_filter_shows_one_rank_as_it_writes_and_combines_with_the_stream_and_find(page, say):
    say(*([rank, f"step {step} of {rank}\n"] for step in range(3) for rank in range(6)))
    page.wait_for_selector(".ln:has-text('step 2 of 5')")
    page.get_by_label("Rank").fill("3")
    wait_for(page, "step 0 of 3", "step 1 of 3", "step 2 of 3")
    say([2, "other\n"], [3, "mine\n"], [3, "oh\n", "stderr"])
    wait_for(page, "step 0 of 3", "step 1 of 3", "step 2 of 3", "mine", "oh")
    assert [number for number, _, _ in rows(page)][-2:] == ["20", "21"]
    page.get_by_label("Stream").select_option("stderr")
    wait_for(page, "oh")
    page.get_by_label("Stream").select_option("")
    wait_for(page, "step 0 of 3", "step 1 of 3", "step 2 of 3", "mine", "oh")
    page.get_by_label("Find in output").fill("step")
    page.wait_for_selector("[data-hits]:has-text('1 of 3 in the lines shown')")
    page.get_by_label("Rank").fill("")
    until(lambda: len(shown(page)) == 21, what="all lines again")


def test_the_last_lines_of_a_rank_are_fetched_from_far_behind(page, say):
    say([3, "early\n"])
    for _ in range(3):
        say([0, ("x" * 99 + "\n") * 20_000])
    page.click(".follow")
    page.wait_for_selector(".ln .no:text-is('60001')")
    page.get_by_label("Rank").fill("3")
    wait_for(page, "early")
    say([0, "not wanted\n"], [3, "late\n"])
    wait_for(page, "early", "late")


def test_earlier_lines_of_a_rank_can_be_loaded_and_the_end_is_found_again(page, say):
    for part in range(3):
        say(*([n % 2, f"{part} {n:05} {'z' * (80 if n % 15 else 400)}\n"] for n in range(6_000)))
    page.click(".follow")
    page.wait_for_selector(".ln .no:text-is('18000')")
    page.get_by_label("Rank").fill("1")
    page.wait_for_selector(".gap-row:has-text('There may be earlier lines of rank 1')")
    first = int(rows(page)[0][0])
    page.eval_on_selector(".log", "log => { log.scrollTop = 0 }")
    inside = "one => one.getBoundingClientRect().right < one.closest('.log').getBoundingClientRect().right"
    assert page.eval_on_selector(".gap-row button", inside), "it is in the middle of lines that are wider than the pane"
    page.click("text=Load earlier")
    until(lambda: (now := rows(page)) and int(now[0][0]) < first, what="earlier lines")
    numbers = [int(number) for number, mark, _ in rows(page) if mark == "r1"]
    assert numbers == list(range(numbers[0], numbers[-1] + 1, 2))
    page.click(".follow")
    page.wait_for_selector(".ln .no:text-is('18000')")
    assert {mark for mark, _ in shown(page)} == {"r1"}


def test_a_rank_that_has_written_nothing_is_said_so(page, say):
    say([0, "zero\n"])
    page.wait_for_selector(".ln:has-text('zero')")
    page.get_by_label("Rank").fill("4")
    page.wait_for_selector("text=Rank 4 has written nothing so far.")
    page.get_by_label("Rank").fill("17")
    page.wait_for_selector("text=Rank 17 has written nothing so far. This run has ranks 0 to 5.")
    page.get_by_label("Rank").fill("four")
    page.wait_for_selector("text=“four” is no rank. Write 3, or 0-7,12, or the name of a node.")
    assert page.get_by_label("Rank").get_attribute("aria-invalid") == "true"
    page.get_by_label("Rank").fill("4")
    say([4, "four\n"])
    wait_for(page, "four")


def test_a_filter_is_in_the_address_and_its_bytes_can_be_downloaded(page, say):
    say([0, "a"], [3, "mi"], [0, "b\n"], [3, "ne\n"], [3, "no end"])
    page.wait_for_selector(".ln:has-text('no end')")
    page.focus(".log")
    page.keyboard.press("r")
    page.keyboard.type("3")
    wait_for(page, "mine", "no end")
    page.reload()
    wait_for(page, "mine", "no end")
    page.click("summary:has-text('Download')")
    with page.expect_download() as download:
        page.click("text=Only rank 3")
    assert download.value.path().read_bytes() == b"mine\nno end"


def test_500_ranks_are_found_by_range_and_by_node(page, say):
    hosts = [f"tide-{n}" for n in range(10)]
    say(nodes={"hosts": hosts, "of": {str(rank): rank % 10 for rank in range(500)}})
    for step in range(10):
        say(*([rank, f"step {step} of {rank} {'.' * 40}\n"] for rank in range(500)))
    page.wait_for_selector(".ln .no:text-is('5000')")
    page.wait_for_selector("[name=rank][placeholder='all 500']")
    assert page.locator("datalist option").count() == 510
    page.get_by_label("Rank").fill("0-7,499")
    until(lambda: len(rows(page)) == 90, what="nine ranks")
    assert {mark for mark, _ in shown(page)} == {*(f"r{rank}" for rank in range(8)), "r499"}
    page.get_by_label("Rank").fill("tide-3")
    until(lambda: len(rows(page)) == 500, what="the 50 ranks of a node")
    assert {int(mark[1:]) % 10 for mark, _ in shown(page)} == {3}
    assert page.locator(".rk").first.get_attribute("title").endswith(" on tide-3")


def test_axe_finds_nothing_and_ranks_stay_in_sight(open_desk, task, say):
    say([0, "zero\n"], [17, "seventeen\n", "stderr"], [1, "part"])
    page = open_desk(f"/outputs/{task['output']}/?rank=0-99")
    wait_for(page, "zero", "seventeen", "part")
    expect(page.locator(".rk:visible")).to_have_count(3)
    assert faults(page) == []
    assert page.locator(".rk:visible").count() == 3, "on a telephone too"
    page.get_by_label("Rank").fill("x")
    page.wait_for_selector("text=is no rank")
    assert faults(page) == []


def test_times_are_off_on_a_small_screen_until_asked_for(open_desk, task, say):
    say([0, "zero\n"])
    page = open_desk(f"/outputs/{task['output']}/", viewport={"width": 390, "height": 800})
    page.wait_for_selector(".ln:has-text('zero')")
    times = page.locator("[data-do=times]")
    assert (times.get_attribute("aria-pressed"), page.locator(".at:visible").count()) == ("false", 0)
    times.click()
    assert (times.get_attribute("aria-pressed"), page.locator(".at:visible").count()) == ("true", 1)


def test_ranks_are_filtered_without_javascript(open_desk, task, say):
    say([0, "load 10%"], [3, "mi"], [0, "\rload 100%\n"], [3, "ne\n"])
    page = open_desk(f"/outputs/{task['output']}/", java_script_enabled=False)
    assert shown(page) == [("r0", "load 100%"), ("r3", "mine")]
    page.get_by_label("Rank").fill("3")
    page.click("button:has-text('Show')")
    assert rows(page) == [("2", "r3", "mine")]
    assert page.locator(".rk").get_attribute("title") == "rank 3 on tide-1"
    page.get_by_label("Rank").fill("4")
    page.click("button:has-text('Show')")
    assert "Rank 4 has written nothing so far." in page.text_content(".log")
    page.get_by_label("Rank").fill("four")
    page.click("button:has-text('Show')")
    assert "is no rank" in page.text_content("[data-fault]")
    page.get_by_label("Rank").fill("tide-0")
    page.click("button:has-text('Show')")
    assert shown(page) == [("r0", "load 100%")]
    page.click("text=Show everything")
    assert len(shown(page)) == 2


def test_a_lost_network_is_said_at_once(page, say):
    say([0, "zero\n"])
    page.wait_for_selector(".ln:has-text('zero')")
    words = page.evaluate("""() => {
      dispatchEvent(new Event("offline"));
      return [document.getElementById("live").textContent, document.querySelector("[data-state]").textContent.trim()];
    }""")
    assert words[0].startswith("No connection since")
    assert words[1] == "No connection; 1 line so far"
    page.wait_for_selector("#live:has-text('Live')")  # the portal was there all the time
    say([0, "one\n"])
    wait_for(page, "zero", "one")


def test_what_has_ended_waits_for_no_output(page, say):
    say([0, "zero\n"])
    page.wait_for_selector(".ln:has-text('zero')")
    page.evaluate("document.querySelector('main').setAttribute('data-ended', ''); line.show()")
    assert page.text_content("[data-state]").strip() == "Ended; keeping the output…"


TRACEBACK = ["Traceback (most recent call last):\n", '  File "tide.py", line 4\n', "ValueError: {}\n"]


def test_lines_that_are_the_same_on_many_ranks_are_one_until_asked_for(page, say):
    say([0, "begins\n"])
    for text in TRACEBACK:
        say(*([rank, text.format("bad"), "stderr"] for rank in (3, 1, 0, 2)))
    say([5, "on its own\n"], [1, "begins\n"])
    error = [("×4 err", text.format("bad").rstrip("\n")) for text in TRACEBACK]
    until(lambda: shown(page) == [("×2", "begins"), *error, ("r5", "on its own")], what="folded lines")
    button = page.get_by_role("button", name="×4 err").first
    assert (button.get_attribute("title"), button.get_attribute("aria-expanded")) == ("ranks 0\u20133", "false")
    button.focus()
    page.keyboard.press("Enter")
    until(lambda: [mark for mark, _ in shown(page)][2:6] == ["r3 err", "r1 err", "r0 err", "r2 err"], what="its ranks")
    assert faults(page, [1280]) == []
    page.get_by_label("Find in output").fill("ValueError")
    page.wait_for_selector("[data-hits]:has-text('1 of 1 in the lines shown')")
    page.click("button:has-text('Fold')")
    until(lambda: len(shown(page)) == 15, what="each line of each rank")
    assert [number for number, _, _ in rows(page)] == [str(number) for number in range(1, 16)]


def test_words_far_away_are_found_and_a_line_has_an_address(open_desk, page, task, say):
    say([3, "a <b>needle</b> early\n"])
    for _ in range(3):
        say([0, ("x" * 99 + "\n") * 20_000])
    say([3, "needle late, without end"])
    page.get_by_label("Find in output").fill("NEEDLE")
    page.click("button:has-text('Search all')")
    page.wait_for_selector("[data-found]:has-text('2 lines have “NEEDLE”, in all 6,000,')")
    assert page.locator("[data-found] li").all_inner_texts()[0].endswith("r3 a <b>needle</b> early")
    assert faults(page, [1280]) == []
    page.click("[data-found] a:has-text('Line 1')")
    page.wait_for_selector(".ln.is-here:has-text('needle')")
    assert page.url.endswith("#L1")
    for javascript in (True, False):
        other = open_desk(f"/outputs/{task['output']}/?line=40001#L40001", java_script_enabled=javascript)
        other.wait_for_selector("#L40001:has-text('xxx')")
        assert int(rows(other)[0][0]) > 30_000
    other.get_by_label("Find in output").fill("needle")
    other.click("button:has-text('Search all')")
    expect(other.locator(".hits li")).to_have_count(2)
    other.click("text=Line 1")
    assert "needle" in other.text_content("#L1")


def test_a_strip_says_who_wrote_when_and_who_has_fallen_silent(portal, page, task, say):
    portal.call("say_over_time", output=task["output"], ranks=6, minutes=20, silent={"4": 5})
    page.get_by_text("Activity by rank").click()
    page.wait_for_selector("[data-activity] [data-words]:has-text('r4 is silent since')")
    page.wait_for_selector("[role=img][aria-label*='Output of 6 ranks']")
    page.emulate_media(color_scheme="light")
    seen = page.locator("[data-strip]").evaluate(
        "one => [getComputedStyle(one)].map(s => [s.backgroundColor, s.colorScheme])[0]"
    )
    assert seen == ["rgba(0, 0, 0, 0)", "dark"], "in light pages too"
    assert faults(page) == []
    page.click("button:has-text('r4 is silent since')")
    until(lambda: {mark for mark, _ in shown(page)} == {"r4"}, what="rank 4 alone")


def longest_task(trace, by=sum):
    """Of the page's own thread, in ms of the processor's time: that of the clock would be everybody's.

    Other pages of the browser are in the trace: the page's thread is that which does most, or `by` the longest task.
    """
    of_thread = defaultdict(list)
    for event in json.loads(trace)["traceEvents"]:
        if event["name"] == "ThreadControllerImpl::RunTask" and "tdur" in event:
            of_thread[event["pid"], event["tid"]].append(event["tdur"] / 1000)
    return max(max(of_thread.values(), key=by))


# 1,000 plain rows, made and laid out at once: what this browser needs on this machine.
ROWS = """() => {
    const table = document.createElement("table");
    for (let row = 0; row < 1000; row++) {
        const cells = table.insertRow();
        for (let cell = 0; cell < 5; cell++) cells.insertCell().textContent = `row ${row}, cell ${cell} of a table`;
    }
    document.querySelector("main").append(table);
    return table.offsetHeight;
}"""


def test_500_ranks_cost_no_long_task_and_a_bounded_page(portal, browser, open_desk, task, say):
    say(nodes={"hosts": ["a", "b"], "of": {str(rank): rank % 2 for rank in range(500)}})
    portal.call("say_over_time", output=task["output"], ranks=500, minutes=20, silent={"17": 5})
    page = open_desk("/")
    browser.start_tracing(page=page, categories=["toplevel"])
    page.goto(f"{portal.url}/outputs/{task['output']}/")
    page.wait_for_selector(".ln >> nth=10")
    page.click(".follow")
    page.wait_for_selector(".ln .no:text-is('19970')")
    page.get_by_text("Activity by rank").click()
    page.wait_for_selector("[data-strip] svg")
    page.locator(".log").hover()
    for fold in (False, True):
        for _ in range(10):
            page.mouse.wheel(0, -600)
            page.wait_for_timeout(30)
        if not fold:
            page.click("button:has-text('Fold')")
            page.wait_for_selector(".log .rk:text-is('r499')", state="attached")
    longest = longest_task(browser.stop_tracing())
    plain = open_desk("/")
    browser.start_tracing(page=plain, categories=["toplevel"])
    for _ in range(4):  # a page's first task may be over before it is traced
        assert plain.evaluate(ROWS) > 0
    floor = longest_task(browser.stop_tracing(), by=max)
    assert longest <= 3 * floor, f"{longest:.0f} ms, and {floor:.0f} ms for 1,000 plain rows"
    assert page.locator("*").count() < 40_000
