"""What was really asked of the emulators, by all tests before these: see `tests.aws.conftest`."""

from tests.aws import recording
from tests.aws.box import Emulator


def test_print():
    by = {}
    for n, one in enumerate(Emulator.made):
        for call in one.recording():
            if call.is_ours:
                by.setdefault(call.action, set()).add(n)
    import json

    open("/tmp/traffic.json", "w").write(json.dumps({k: sorted(v) for k, v in sorted(by.items())}))
    open("/tmp/unused.json", "w").write(
        json.dumps(sorted(__import__("portal.clouds.aws.policy", fromlist=["x"]).ACTIONS - set(by)))
    )
