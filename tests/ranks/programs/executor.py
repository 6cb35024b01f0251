"""A pool over all ranks; `raises` and `leaves`: so does a worker's task."""

import os
import sys

from mpi4py.futures import MPIPoolExecutor


def task(n):
    if n == 3 and "raises" in sys.argv:
        raise LookupError("task three")
    if n == 3 and "leaves" in sys.argv:
        os._exit(5)
    return n * n


if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        print(list(pool.map(task, range(6))))
