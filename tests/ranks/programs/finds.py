"""What a rank finds of how its Python was started."""

import inspect
import json
import os
import signal
import sys

modules = sorted(sys.modules)
main = vars(sys.modules["__main__"])
found = {
    "flags": list(sys.flags),
    "words": sys.argv,
    "path": sys.path,
    "program": [sys.executable, sys.prefix],
    "environment": {name: value for name, value in os.environ.items() if not name.startswith("PMI")},
    "signals": {number: str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()},
    "wakes": signal.set_wakeup_fd(-1),
    "blocked": sorted(signal.pthread_sigmask(0, ())),
    "open": sorted(
        os.get_inheritable(int(name)) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")
    ),
    "streams": [
        [one.fileno(), one.mode, one.encoding, one.line_buffering] for one in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "place": [os.getcwd(), os.umask(0o22)],
    "main": [sorted(main), main["__file__"], main["__spec__"], str(main["__loader__"]).split(" at ")[0]],
    "frames": len(inspect.stack()),
    "threads": len(os.listdir("/proc/self/task")),
}
print(json.dumps(found))
print(json.dumps({"modules": modules, "program": sys.orig_argv[1:]}))
