"""Which test tries each fault that a portal must survive. `python -m tests.faults` prints it as the page docs/faults.md."""

# ruff: noqa: E501 (a row is a line)
from __future__ import annotations

KILLS, MOMENTS, LEDGER = "chaos/test_kills.py", "chaos/test_moments.py", "tasks/test_ledger.py"
SCHEDULES, DISPATCH, LEASES = "jobs/test_schedules.py", "jobs/test_dispatch.py", "tasks/test_watch.py"
BAD, CONTRACT, STRAYS = "clusters/test_bad_clouds.py", "clouds/test_contract.py", "clusters/test_reconcile.py"
IDLE, DEDICATED = "clusters/test_idle_at_once.py", "chaos/test_dedicated.py"
LOST, RANKS, KEEPING = "clusters/test_lost_nodes.py", "ranks/test_ranks.py", "tasks/test_keeping.py"

# The fault, what must hold, the tests; or why there is none yet.
ROWS = (
    (
        "web is killed between the commit and the queue",
        "the task is worked on all the same, once",
        (KILLS, "test_a_part_is_killed_in_the_middle_of_a_run"),
        (LEDGER, "test_queueing_waits_for_the_commit"),
    ),
    (
        "web is killed before it answers, and the form is sent again",
        "one thing is made",
        ("browser/test_pages.py", "test_a_form_sent_twice_makes_one_thing"),
    ),
    (
        "a worker is killed at any step of a run",
        "the run goes on within 15 s, once, and each byte is stored",
        (KILLS, "test_a_run_runs_once_whoever_dies"),
    ),
    (
        "a worker is killed while its program runs on",
        "never FAILED with a living program",
        (KILLS, "test_a_part_is_killed_in_the_middle_of_a_run"),
    ),
    (
        "Redis is killed, or emptied",
        "pages are served, queues are built again from the database",
        (KILLS, "test_a_part_is_killed_in_the_middle_of_a_run"),
        (KILLS, "test_everything_is_killed_again_and_again"),
    ),
    (
        "PostgreSQL is killed, and away for 30 s",
        "pages say so, nothing is half done, work goes on",
        ("hosts/test_cut_off.py", "test_a_server_goes_away_for_a_while_under_load"),
    ),
    (
        "what fires schedules is killed when one is due; two of them at once",
        "it fires once",
        ("chaos/test_schedules.py", "test_a_time_brings_one_run_though_the_watch_process_dies"),
        ("jobs/test_firing.py", "test_two_processes_that_come_to_a_time_at_once_make_one_run"),
        ("jobs/test_firing.py", "test_whoever_dies_in_between_has_done_nothing_and_the_next_one_does_it_once"),
    ),
    (
        "the whole portal is away while a run ends",
        "FINISHED with its true end",
        (KILLS, "test_a_run_that_ends_while_the_portal_is_away_is_finished_with_its_true_end"),
    ),
    (
        "the keeper of a run is killed",
        "FAILED with its reason, and all ranks are gone",
        (MOMENTS, "test_whatever_dies_whenever"),
    ),
    (
        "a rank is killed, or stopped",
        "FAILED within 5 s with the rank named; a stopped one at its time limit",
        ("ranks/test_ends.py", "test_a_rank_that_fails_ends_the_run_and_is_named"),
        (RANKS, "test_a_time_limit_holds_without_the_portal"),
    ),
    (
        "a node's SSH server does not answer, the node lives",
        "silent, not FAILED; it goes on when it answers",
        (KILLS, "test_a_frozen_head_node_is_silent_and_not_failed"),
    ),
    (
        "a node dies for good",
        "the run fails in words, the cluster is DEGRADED, and repaired",
        (KILLS, "test_a_node_is_killed_in_the_middle_of_a_run"),
        ("chaos/test_lost_nodes.py", "test_a_node_that_dies_makes_its_cluster_degraded_and_is_made_again"),
    ),
    (
        "a connection breaks in the middle of output",
        "goes on at its offset, each byte once",
        (KILLS, "test_a_run_runs_once_whoever_dies"),
        ("tasks/test_output.py", "test_a_log_is_stored_once_whoever_tries_again"),
    ),
    (
        "the portal and a node do not reach each other for 5, 60, 300 s",
        "no second run; output catches up",
        (KILLS, "test_a_frozen_head_node_is_silent_and_not_failed"),
        (SCHEDULES, "test_nothing_is_lost_double_left_or_stuck"),
    ),
    (
        "web and Redis, worker and database, node and node are cut off",
        "each gives way as it is written",
        "not yet: node and node are not cut off from each other; the others are, in hosts/test_cut_off.py",
    ),
    (
        "a disk is full: of the store, of a node, of the database",
        "runs go on or say so; the cut is stated; nothing is lost",
        (KEEPING, "test_a_store_that_does_not_take_an_output_is_a_passing_fault_in_words"),
        (KEEPING, "test_an_output_that_is_too_long_says_so_where_it_is_cut_and_counts_the_rest"),
    ),
    (
        "clocks are an hour or ninety days off",
        "leases and locks are of the database's time",
        (LEASES, "test_a_life_that_has_run_out_is_never_renewed_and_takes_nothing"),
        ("accounts/test_lock.py", "test_the_lock_falls_after_ninety_days_to_the_second"),
    ),
    (
        "a hint comes twice, late, or after a cancel",
        "nothing happens",
        (LEDGER, "test_a_step_that_waits_gives_the_worker_back_and_keeps_its_memo"),
        (DISPATCH, "test_a_run_that_is_cancelled_while_its_turn_comes_leaves_the_cluster_to_the_next"),
    ),
    (
        "a cancel meets a start, an end, a lost node",
        "one outcome, nothing left",
        (SCHEDULES, "test_nothing_is_lost_double_left_or_stuck"),
        (KILLS, "test_a_cancelled_run_is_ended_whoever_dies"),
    ),
    (
        "a cloud throttles",
        "asked again, ever more seldom, for ten minutes",
        (LEDGER, "test_a_passing_fault_gives_the_worker_back_and_is_tried_again"),
    ),
    (
        "a cloud has no room for the last node",
        "said in words; what was made can be deleted",
        (BAD, "test_a_full_cloud_is_said_in_words_and_what_was_made_can_be_deleted"),
    ),
    (
        "a create call worked, and its answer is lost",
        "one thing is made",
        (BAD, "test_a_cloud_that_forgets_to_answer_makes_each_node_once"),
        (CONTRACT, "test_lost_replies_make_nothing_twice"),
    ),
    (
        "a worker is killed between a create call and its row",
        "gone on with, or taken back; inventory and rows agree",
        (KILLS, "test_a_cluster_is_made_whoever_dies"),
        (CONTRACT, "test_dying_in_any_request_is_repaired_by_asking_again"),
    ),
    (
        "somebody deletes or stops things behind our back; things of others are there",
        "shown; nothing foreign is touched",
        (STRAYS, "test_a_cluster_that_nobody_knows_is_ended_and_one_of_another_portal_is_not_seen"),
        (LOST, "test_a_running_cluster_with_a_lost_node_is_degraded"),
    ),
    (
        "a deletion fails half-way, and is tried again",
        "it ends deleted",
        (KILLS, "test_a_cluster_is_deleted_whoever_dies"),
    ),
    (
        "a timer that pauses or deletes meets the start of a run, or of a terminal",
        "who uses the cluster decides; nothing is paused twice",
        (IDLE, "test_a_run_always_wins"),
        (IDLE, "test_a_terminal_is_open_or_refused_in_words_and_never_cut_off"),
        (KILLS, "test_a_timer_pauses_a_cluster_once_whoever_dies"),
    ),
    (
        "a job's own cluster: the job fails before, during, after",
        "the cluster is gone within two minutes, in every outcome; the run was there once, and says why it failed",
        (DEDICATED, "test_it_runs_once_and_its_cluster_is_gone_whoever_dies"),
        (DEDICATED, "test_it_is_gone_where_the_run_is_cancelled_at_the_moment_of_a_death"),
        (DEDICATED, "test_it_is_gone_where_it_could_not_be_made_and_the_run_says_why"),
        (SCHEDULES, "test_nothing_is_lost_double_left_or_stuck"),
    ),
    (
        "a notebook server is killed, its port stolen",
        "its status is true, files are kept",
        "not yet: there are no notebook servers",
    ),
    (
        "a new version is started while runs go on",
        "nothing is lost, sockets connect again",
        (LEDGER, "test_a_plan_that_changed_under_a_task_fails_it_with_words"),
        (KILLS, "test_the_supervisor_is_killed_and_the_portal_started_again"),
    ),
    (
        "a backup of an hour ago is put back",
        "what has no row is shown before it is ended",
        (STRAYS, "test_a_cluster_that_nobody_knows_is_ended_and_one_of_another_portal_is_not_seen"),
    ),
)


def tests():
    """The file and the name of each test that a row names."""
    return sorted({where for _, _, *how in ROWS for where in how if isinstance(where, tuple)})


def as_page():
    lines = [
        "# Thirty faults, and which test tries each",
        "",
        "Generated from tests/faults.py by `python -m tests.faults`. A test that is named here and does not exist fails the",
        "build.",
        "",
        "| | fault | what must hold | test |",
        "|---|---|---|---|",
    ]
    for number, (fault, holds, *how) in enumerate(ROWS, 1):
        said = ", ".join(one if isinstance(one, str) else f"`tests/{one[0]}::{one[1]}`" for one in how)
        lines.append(f"| {number} | {fault} | {holds} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_page(), end="")
