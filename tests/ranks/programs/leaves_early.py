"""Rank 1 has nothing to do; the others go on."""

import sys
import time

from mpi4py import MPI

if MPI.COMM_WORLD.rank == 1:
    sys.exit()
time.sleep(float(sys.argv[1]))
