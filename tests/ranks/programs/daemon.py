"""Leaves processes behind: `quiet` ones close their outputs, `clean` ones have no environment."""

import os
import sys
import time

from mpi4py import MPI

world = MPI.COMM_WORLD
print("rank", world.rank, "will leave a daemon", flush=True)
if world.rank in (0, 3) and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if "quiet" in sys.argv:
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.closerange(3, 256)
        if "renamed" in sys.argv:
            with open("/proc/self/comm", "w") as file:
                file.write("kworker/0:1")
        os.execve("/bin/sleep", ["sshd: listener", "300"], {} if "clean" in sys.argv else dict(os.environ))
    os._exit(0)
if "crowd" in sys.argv:
    import subprocess

    for _ in range(40):
        subprocess.Popen(["sleep", "300"])
world.Barrier()
if "kill" in sys.argv:  # the wrapper around us
    os.kill(os.getppid(), 9)
    time.sleep(100)
print("rank", world.rank, "ends", flush=True)
