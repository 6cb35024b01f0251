from portal.supervisor import pause_after


def test_a_process_that_always_ends_at_once_is_started_again_for_ever():
    pauses = [pause_after(restarts) for restarts in (0, 1, 2, 5, 10, 1024, 10**9)]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0
