"""Bytes of all kinds on both streams of rank 0, written in pieces."""

import os
import time

from mpi4py import MPI

world = MPI.COMM_WORLD
if world.rank == 0:
    for _ in range(4):
        os.write(1, bytes(range(256)))
    os.write(1, b"\nnul:\0\0\0:nul\n\xff\xfe\xc3(\n")
    for percent in range(101):
        os.write(2, b"\r%3d%% |%s|" % (percent, b"#" * (percent // 5)))
        time.sleep(0.005)
    os.write(2, b"\n")
    os.write(1, "\x1b[31mred\x1b[0m \u202e <script>\n".encode() + b"y" * 5_000_000 + b"\n")
world.Barrier()
