"""The terminal of a node, in a browser: the walk by which people verify their connection, and what may go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh
import pytest
from playwright.sync_api import expect

from portal import ssh
from tests.browser.conftest import sign_in, violations
from tests.browser.test_journey import Hands
from tests.chaos.test_kills import kill_node
from tests.running import until

ROWS = "#terminal-screen .xterm-rows > div"


@pytest.fixture
def address(cluster):
    return f"/clusters/{cluster}/terminal/"


def screen(page):
    """What is on the screen, line by line."""
    return [line.replace("\xa0", " ").rstrip() for line in page.locator(ROWS).all_text_contents()]


def shows(page, pattern, seconds=60):
    """The first line on the screen that this matches, once there is one."""

    def look():
        return next((found for line in screen(page) if (found := re.search(pattern, line))), None)

    return until(look, seconds=seconds, what=f"{pattern!r} in {screen(page)}")


def enter(page, command):
    page.keyboard.type(command)
    page.keyboard.press("Enter")


def opened(open_desk, address, **options):
    page = open_desk(address, **options)
    expect(page.locator("#terminal-words")).to_have_text("Connected")
    shows(page, r"tide-\d:~\$$")
    return page


def sleeping(seconds):
    """How many programs of this machine, nodes' too, sleep so long."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += entry.read_bytes() == f"sleep\0{seconds}\0".encode()
    return found


def test_the_connection_is_verified_by_keyboard_alone(open_desk, cluster):
    page = open_desk(f"/clusters/{cluster}/")
    hands = Hands(page)
    hands.to("^Terminal on tide-1").press()
    page.wait_for_url("**/terminal/?node=1")
    expect(page.locator("#terminal-words")).to_have_text("Connected")
    shows(page, r"tide-1:~\$$")
    enter(page, "ls -a /shared | grep hostfile")
    shows(page, rf"^\.hostfile-{cluster}$")
    enter(page, f"clear; mpiexec -n 2 -f /shared/.hostfile-{cluster} hostname | sort")
    shows(page, "^tide-0$")
    shows(page, "^tide-1$")
    enter(page, f"clear; mpiexec -n 2 -f /shared/.hostfile-{cluster} python --version | sort | uniq -c")
    shows(page, r"^ +2 Python 3\.")
    enter(page, "clear; ssh tide-0 hostname; which python")
    shows(page, "^tide-0$")
    shows(page, "/shared/.engines/.*/bin/python")
    enter(page, "clear; sh /tmp/update_hostfile.sh")
    shows(page, "^Successfully obtained a hostfile response$")
    shows(page, "^Updating the hostfile with: tide-0 tide-1")
    shows(page, r"^Successfully updated hostfile\. Please restart the kernel\.$")
    page.keyboard.press("Shift+F6")
    assert page.evaluate("document.activeElement.dataset.do") == "reader"


def test_keys_text_and_sizes_arrive_as_they_are(open_desk, address):
    page = opened(open_desk, address)
    enter(page, "clear; printf 'na\u00efve \u2713 \u65e5\u672c\\n'; echo $TERM $COLORTERM; locale charmap")
    shows(page, "^na\u00efve \u2713 \u65e5\u672c")
    shows(page, "^xterm-256color truecolor$")
    shows(page, "^UTF-8$")
    enter(page, "clear; sh -c 'echo asleep; exec sleep 345' && echo slept")
    shows(page, "^asleep$")  # what is typed while the shell starts something may be lost
    page.keyboard.press("Control+c")
    shows(page, r"\^C")
    enter(page, "clear; stty size")
    before = shows(page, r"^(\d+) (\d+)$").groups()
    page.set_viewport_size({"width": 390, "height": 800})
    until(lambda: page.evaluate("terminal.term.cols") < int(before[1]), what="a narrower terminal")
    enter(page, "clear; stty size")
    columns = page.evaluate("terminal.term.cols")
    shows(page, rf"^\d+ {columns}$")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_is_selected_is_copied_and_what_is_pasted_is_typed(open_desk, address):
    page = opened(open_desk, address)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    enter(page, "clear; echo one-two")
    shows(page, "^one-two$")
    page.evaluate("terminal.term.selectAll()")
    page.keyboard.press("Control+c")
    until(lambda: "one-two" in page.evaluate("navigator.clipboard.readText()"), what="a copy")
    page.evaluate("navigator.clipboard.writeText('echo pas''ted')".replace("''", "\\'\\'"))
    page.keyboard.press("Control+Shift+v")
    page.keyboard.press("Enter")
    shows(page, "^pasted$")


def test_what_is_pasted_cannot_end_the_paste_and_press_enter(open_desk, address):
    page = opened(open_desk, address)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    assert page.evaluate("terminal.term.modes.bracketedPasteMode")
    page.evaluate("terminal.term.onData((text) => { window.heard = (window.heard ?? '') + text })")
    page.evaluate(r"navigator.clipboard.writeText('one\t\x1b[201~\rtwo\x9b201~\x03\r')")
    page.keyboard.press("Control+Shift+v")
    said = until(lambda: page.evaluate("window.heard"), what="what is typed")
    assert said == "\x1b[200~one\t[201~\rtwo201~\r\x1b[201~"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("reader", [False, True])
def test_nothing_for_axe_to_say(open_desk, address, cluster, scheme, reader):
    page = opened(open_desk, address, color_scheme=scheme)
    if reader:
        page.click("[data-do=reader]")
        enter(page, "echo hello")
        until(lambda: "hello" in page.locator(".xterm-accessibility").text_content(), what="what is read out")
    assert violations(page, preload=False) == []
    page.goto(page.url.split("/terminal")[0] + "/")
    page.click("text=From node to node by ssh")
    page.click("text=With an ssh program of your own")
    assert violations(page, preload=False) == []


def test_a_reload_and_a_lost_connection_cost_nothing(open_desk, address):
    page = opened(open_desk, address)
    enter(page, "clear; sleep 1000 & echo $((40 + 2)) $!")
    number = shows(page, r"^42 (\d+)$").group(1)
    page.reload()
    expect(page.locator("#terminal-words")).to_have_text("Connected")
    shows(page, rf"^42 {number}$")
    page.evaluate("terminal.socket.close()")
    expect(page.locator("#terminal-words")).to_contain_text("lost")
    expect(page.locator("#terminal-words")).to_have_text("Connected")
    enter(page, "clear; jobs -p")
    shows(page, rf"^{number}$")


def test_a_flood_can_be_interrupted_and_the_portal_goes_on(open_desk, address):
    page = opened(open_desk, address)
    enter(page, "clear; yes 0123456789")
    shows(page, "^0123456789$")
    other = open_desk("/workspaces/")
    expect(other.locator("h1")).to_have_text("Workspaces")
    page.bring_to_front()
    page.keyboard.press("Control+c")
    enter(page, "clear; echo still $((1 + 1))")
    shows(page, "^still 2$")


def test_it_ends_in_words_with_the_web_process_and_another_is_opened(portal, open_desk, address):
    page = opened(open_desk, address)
    enter(page, "sleep 12345")
    until(lambda: sleeping(12345) == 1, what="its program")
    portal.kill_part("web")
    expect(page.locator("#terminal-words")).to_contain_text("It has ended. This terminal is over.", timeout=45_000)
    page.click("text=New terminal")
    expect(page.locator("#terminal-words")).to_have_text("Connected")
    shows(page, r"tide-0:~\$$")
    until(
        lambda: "12345" not in portal.call("on_node", cluster=address.split("/")[2], command="ps ax")["out"],
        what="its end",
    )


def test_it_ends_when_it_is_ended(open_desk, address):
    page = opened(open_desk, address)
    enter(page, "setsid nohup sleep 23456 &")
    until(lambda: sleeping(23456) == 1, what="its program")
    page.click("[data-do=end]")
    expect(page.locator("#terminal-words")).to_have_text("You ended it. This terminal is over.")
    until(lambda: sleeping(23456) == 0, what="its end")


def test_it_ends_in_words_when_its_node_dies(portal, open_desk, lab):
    lone = portal.call("make_cluster", workspace=lab, name="tide-lone", nodes=1, cores=1)
    until(lambda: portal.call("state", kind="cluster", uuid=lone)["status"] == "running", seconds=120, what="it")
    page = open_desk(f"/clusters/{lone}/terminal/")
    shows(page, r"tide-lone-0:~\$$")
    kill_node(portal, lone, 0)
    expect(page.locator("#terminal-words")).to_contain_text(
        re.compile("The connection to tide-lone-0 broke|tide-lone-0 is gone")
    )


def test_it_ends_in_words_when_the_role_is_taken_away(portal, open_desk, lab, address):
    page = opened(open_desk, address)
    try:
        portal.call("give_role", workspace=lab, email=portal.who["email"], role="viewer")
        expect(page.locator("#terminal-words")).to_contain_text("You may not open terminals here any more.")
    finally:
        portal.call("give_role", workspace=lab, email=portal.who["email"], role="admin")


def test_the_commands_of_the_page_are_copied_and_lead_to_the_nodes(open_desk, cluster):
    page = open_desk(f"/clusters/{cluster}/")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("text=From node to node by ssh")
    page.click("[data-copy=command-ssh-1]")
    page.wait_for_selector("#said:has-text('Copied')", state="attached")
    page.click("text=Terminal on tide-0")
    expect(page.locator("#terminal-words")).to_have_text("Connected")
    shows(page, r"tide-0:~\$$")
    page.keyboard.press("Control+Shift+v")
    enter(page, " hostname")
    shows(page, "^tide-1$")


def test_the_key_of_the_page_opens_the_nodes(portal, browser, cluster, tmp_path):
    page = browser.new_page()
    sign_in(page, portal)  # a moment ago: nobody is asked again who it is
    page.goto(f"{portal.url}/clusters/{cluster}/")
    page.click("text=With an ssh program of your own")
    for _ in range(2):  # the button is no form that is sent once
        with page.expect_download() as downloading:
            page.click("text=Download the key")
    assert downloading.value.suggested_filename == f"id_ed25519-{cluster}"
    downloading.value.save_as(tmp_path / "key")
    page.close()
    (door,) = (door for door in portal.var.rglob("door") if cluster in str(door) and door.parent.name == "1")

    async def hostname():
        async with asyncssh.connect(
            sock=ssh.through(str(door)), username="node", client_keys=[str(tmp_path / "key")], known_hosts=None,
            config=None, agent_path=None,
        ) as connection:  # fmt: skip
            return (await connection.run("hostname")).stdout

    # In a thread: Playwright keeps an event loop running in this one.
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(asyncio.run, hostname()).result(30) == "tide-1\n"
