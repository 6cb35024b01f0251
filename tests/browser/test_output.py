"""The output viewer, with output that a program might write, and with connections that go away."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import rows
from tests.running import until


@pytest.fixture
def task(portal, lab):
    made = portal.call("open_task", workspace=lab)
    yield made
    portal.call("end_task", task=made["task"])


@pytest.fixture
def say(portal, task):
    return lambda data, stream="stdout", times=1: portal.call(
        "say", output=task["output"], data=data, stream=stream, times=times
    )


@pytest.fixture
def page(open_desk, task):
    page = open_desk(f"/tasks/{task['task']}/")
    page.wait_for_selector("#live:has-text('Live')")
    return page


def texts(page):
    return [text for _, _, text in rows(page)]


def test_what_is_said_appears_while_the_page_is_open(page, say):
    say("first\n")
    page.wait_for_selector(".ln:has-text('first')")
    say("second\nhalf a li")
    page.wait_for_selector(".ln:has-text('half a li')")
    say("ne\n")
    page.wait_for_selector(".ln:has-text('half a line')")
    assert rows(page) == [("1", "", "first"), ("2", "", "second"), ("3", "", "half a line")]


@pytest.mark.parametrize("javascript", [True, False])
def test_times_are_in_the_persons_zone_and_say_so(portal, open_desk, task, say, javascript):
    say("when\n")
    portal.call("set_zone", email=portal.who["email"], zone="Asia/Kolkata")
    try:
        page = open_desk(f"/tasks/{task['task']}/", java_script_enabled=javascript)
        made_by = "[title]" if javascript else ""  # the script's own rows, or those that the page came with
        row = page.locator(f".ln:has-text('when') .at{made_by}")
        here = datetime.now(ZoneInfo("Asia/Kolkata"))
        assert row.inner_text() in {f"{here - timedelta(seconds=n):%H:%M:%S}" for n in range(60)}
        assert page.locator(".viewer .bar:has-text('IST')").count() == 1
        if javascript:
            assert f"{here:%A %-d %B %Y}" in row.get_attribute("title").replace(",", "").replace(" at", "")
    finally:
        portal.call("set_zone", email=portal.who["email"], zone="UTC")


ODD = [
    (["<script>alert(1)</script> &amp; <b>\n"], "<script>alert(1)</script> &amp; <b>"),
    (["progress 10%\rprogress 50%", "\rprogress 100%\n"], "progress 100%"),
    (["done\r\n"], "done"),
    (["\x1b[31mred\x1b[0m \x1b[1;38;5;9mbold\x1b[m\n"], "red bold"),
    (["half \x1b[3", "2mgreen\x1b[0m\n"], "half green"),
    (["\x1b[2J\x1b[10;10Hcursor\x1b[K\n"], "cursor"),
    (["\x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x1b]52;c;aGk=\x07clip\n"], "link clip"),
    (["nul\0 bell\x07 del\x7f c1\x9b\n"], "nul bell del c1\ufffd"),
    (["caf\xc3", "\xa9 \xff\n"], "café \ufffd"),
    (["tab\tkept\n"], "tab\tkept"),
    (["\n"], ""),
]


def test_odd_bytes_are_text_and_nothing_else(page, say):
    for pieces, _ in ODD:
        for piece in pieces:
            say(piece)
    say("the end\n")
    page.wait_for_selector(".ln:has-text('the end')")
    assert texts(page)[:-1] == [shown for _, shown in ODD]
    assert page.locator(".ln .c1").text_content() == "red"


def test_streams_are_told_apart_without_colour(page, say):
    say("out\n")
    say("bad\n", "stderr")
    page.wait_for_selector(".ln:has-text('bad')")
    assert [mark for _, mark, _ in rows(page)] == ["", "stderr"]


def test_a_very_long_line_is_cut_until_asked_for(page, say):
    say("y" * 1_000_000 + "\n")
    page.click("text=Show all 1,000,000 characters")
    assert texts(page) == ["y" * 8192 + " " + "y" * (1_000_000 - 8192)]


def test_a_burst_leaves_a_window_and_says_what_is_not_in_it(page, say):
    say("".join(f"{n} " + "z" * 90 + "\n" for n in range(1000)), times=40)
    page.wait_for_selector(".ln .no:text-is('40000')")
    shown = [int(number) for number, _, _ in rows(page)]
    assert shown == list(range(shown[0], 40_001))
    assert len(shown) <= 5000
    assert f"{shown[0] - 1:,} are not shown" in page.text_content(".gap-row")

    page.click("text=Load earlier")

    def earlier():
        numbers = [int(number) for number, _, _ in rows(page)]
        return numbers if shown[0] in numbers[1:] else None

    numbers = until(earlier, what="earlier lines before those")
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


def test_somebody_who_reads_further_up_is_left_alone(page, say):
    say("".join(f"line {n}\n" for n in range(200)))
    page.wait_for_selector(".ln .no:text-is('200')")
    place = page.locator(".log").bounding_box()
    page.eval_on_selector(".log", "log => { log.scrollTop = 300 }")
    page.wait_for_selector(".follow:visible")
    assert page.locator(".log").bounding_box() == place, "what is about to be pressed stays under the pointer"
    before = page.eval_on_selector(".log", "log => log.scrollTop")
    say("more\n" * 50)
    page.wait_for_selector(".ln .no:text-is('250')", state="attached")
    assert page.eval_on_selector(".log", "log => log.scrollTop") == before
    page.click(".follow")
    expect(page.locator(".log")).to_be_focused()
    assert page.eval_on_selector(".log", "log => log.scrollHeight - log.scrollTop - log.clientHeight") < 2


def test_keys_find_lines_only_while_the_output_has_the_focus(page, say):
    say("one\ntwo needle\nthree\nneedle four\n")
    page.wait_for_selector(".ln:has-text('four')")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") != "find"
    page.focus(".log")
    button = page.get_by_role("button", name="Search all")
    place = button.bounding_box()
    page.keyboard.press("/")
    page.keyboard.type("NEEDLE")
    page.wait_for_selector("[data-hits]:has-text('1 of 2 in the lines shown')")
    assert button.bounding_box() == place, "it does not go away from under the pointer"
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-hits]:has-text('2 of 2')")
    assert "needle four" in page.text_content(".is-here")


def test_a_task_that_ends_says_so_without_moving_the_focus(portal, page, say, task):
    say("last words\n")
    page.wait_for_selector(".ln:has-text('last words')")
    page.focus("[name=find]")
    page.keyboard.type("wor")
    portal.call("end_task", task=task["task"])
    page.wait_for_selector("#live:has-text('Ended; nothing more will come')")
    page.wait_for_selector("[data-state]:has-text('Complete: 11 of 11 bytes, 1 line')")
    page.wait_for_selector("#task-head .st:has-text('FINISHED')")
    until(lambda: page.text_content("#said"), what="something said to screen readers")
    assert page.title().startswith("Finished: ")
    assert page.evaluate("[document.activeElement.name, document.activeElement.value]") == ["find", "wor"]


WATCH_STATE = """
new MutationObserver(() => {
  const words = document.querySelector("[data-state]")?.textContent.trim();
  if (words) (window.stated ??= new Set()).add(words.split(/[ :]/)[0]);
}).observe(document, { childList: true, subtree: true });
"""


def test_an_output_that_is_complete_is_never_said_to_be_coming(portal, page, say, task):
    say("last words\n", times=300)
    portal.call("end_task", task=task["task"])
    page.wait_for_selector("[data-state]:has-text('Complete: ')")
    page.add_init_script(WATCH_STATE)
    for _ in range(3):
        page.reload()
        page.wait_for_selector("[data-state] .copy, .ln:has-text('last words')")
        page.wait_for_selector("#live:has-text('Ended; nothing more will come')")
        assert page.evaluate("[...window.stated]") == ["Complete"]


def test_a_web_server_that_is_killed_costs_no_line(portal, open_desk, lab, cluster):
    url = f"{portal.url}/examples/chatty"
    made = portal.call(
        "make_job", workspace=lab, cluster=cluster, git_url=url, command="chatty.py --lines 150 --rate 15"
    )
    page = open_desk(f"/runs/{made['run']}/")
    page.wait_for_selector(".ln.stdout:nth-child(20)", state="attached", timeout=60_000)
    portal.kill_part("web")
    page.wait_for_selector("#live:not(:has-text('Live'))")
    page.wait_for_selector("#live:has-text('Live'), #live:has-text('Ended')", timeout=60_000)
    page.wait_for_selector("[data-state]:has-text('Complete: ')", timeout=60_000)
    stored = portal.call("read_output", run=made["run"], stream="stdout")["text"]
    assert len(stored.splitlines()) > 300
    assert [text for _, _, text in rows(page, ".ln.stdout")] == stored.splitlines()


def test_a_page_without_a_socket_asks_by_plain_http(open_desk, task, say):
    page = open_desk(f"/tasks/{task['task']}/")
    page.wait_for_selector("#live:has-text('Live')")
    page.evaluate("""() => {
      window.WebSocket = class {
        constructor() { setTimeout(() => this.onclose({ code: 1006 })); }
        close() {}
      };
    }""")
    page.evaluate("line.socket.close()")
    page.wait_for_selector("#live:has-text('Asking every 5 s')")
    say("over http\n")
    page.wait_for_selector(".ln:has-text('over http')")


def test_somebody_who_was_signed_out_is_told_and_sees_no_more(portal, browser, task, say):
    from tests.browser.conftest import sign_in

    page = browser.new_page()
    sign_in(page, portal)
    page.goto(f"{portal.url}/tasks/{task['task']}/")
    page.wait_for_selector("#live:has-text('Live')")
    key = next(c["value"] for c in page.context.cookies() if c["name"] == f"coxswain-{portal.port}")
    portal.call("end_session", cookie=key)
    page.wait_for_selector("#live:has-text('Signed out')")
    say("not for everybody\n")
    page.wait_for_timeout(1500)
    assert "not for everybody" not in page.text_content(".log")
    page.close()


def test_a_clock_is_a_number_from_its_first_moment(page):
    page.add_init_script(
        "window.seen = []; new MutationObserver(() => {"
        " for (const clock of document.querySelectorAll('[data-since]')) seen.push(clock.textContent);"
        "}).observe(document, { subtree: true, childList: true, characterData: true });"
    )
    page.reload()
    page.wait_for_function("seen.some((text) => / s$/.test(text))")
    assert page.evaluate("seen.filter((text) => text.includes('NaN'))") == []
