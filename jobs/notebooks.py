"""Notebooks: how papermill executes one on the head node, and the result of that, kept and shown.

A result is whatever a program of a run has put where it belongs: of what is in it, a page shows text and two kinds of
images, and no markup.
"""

from __future__ import annotations

import binascii
import json
import shlex
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from jobs.models import Run
from portal import ssh
from portal.errors import PortalError
from portal.tasks import keeping, live
from portal.tasks.models import Output, Stream
from portal.tasks.output import plain_text, stream_bytes

NEEDS = ["papermill==2.7.0", "ipykernel==7.4.0"]  # where an engine version has its own, these
MOST = 20 * 1024 * 1024  # bytes of a result
_PIECE = 3 * 1024 * 1024  # less than `ssh.MOST_ANSWER`
MOST_SHOWN = 4 * 1024 * 1024  # characters on a page, of text and of images
MOST_TEXT = 50_000  # characters of one text on it
MOST_CELLS = 2000
MOST_PARTS = 500_000  # values of JSON: each takes some hundred bytes of memory, whoever looks at the page
_OF_A_PIECE, _OF_A_LINE = 200, 20  # characters that it counts for at least: a page of empty ones has an end too
_WRITTEN, _KEPT = "executing.ipynb", "executed.ipynb"  # as jobs/onnode/notebook.py has them
_IMAGES = ("image/png", "image/jpeg")


# On the node


def command(text: str, folder: str) -> list[str]:
    """What Python gets to execute what `rules.notebook` has taken, in a run of this folder."""
    path, *parameters = shlex.split(text)
    # What cells print is the output of the run, in its own streams.
    streams = ["--stdout-file", "/dev/stdout", "--stderr-file", "/dev/stderr"]
    options = ["--kernel", "python3", "--language", "python", "--cwd", ".", "--no-progress-bar", *streams]
    return ["-m", "papermill", *options, *parameters, path, f"{folder}/{_WRITTEN}"]


def environment(folder: str, engine: str, hostfile: str) -> dict[str, str]:
    """So that the kernel is the engine's with the run's packages, nothing of it lies in the home, and what it spawns by
    MPI is on all nodes: it is no rank of the run's.
    """
    place = f"{folder}/jupyter"
    return {
        "JUPYTER_PATH": f"{folder}/packages/share/jupyter:{engine}/share/jupyter",
        "JUPYTER_DATA_DIR": f"{place}/data",
        "JUPYTER_CONFIG_DIR": f"{place}/config",
        "JUPYTER_RUNTIME_DIR": f"{place}/runtime",
        "IPYTHONDIR": f"{folder}/ipython",  # in a folder that is there: IPython says much where it is not
        "HYDRA_HOST_FILE": hostfile,
    }


# Kept


def keep(run: Run) -> str:
    """Copy the result from the node that keeps the run; why there is none, in a sentence. Raises `Passing`."""
    if run.notebook_id:
        return ""
    head, folder = run.kept_at()
    place = shlex.quote(f"{folder}/{_KEPT}")
    answer = ssh.run(head.host, f"[ -f {place} ] && [ ! -L {place} ] && stat -c %s {place}", seconds=10)
    if answer.status or not answer.text.isdecimal():
        return "The run has left no executed notebook."
    size = int(answer.text)
    if size > MOST:
        return f"The executed notebook has {size:,} bytes and is not kept: at most {MOST:,} are. Print less in it."
    data = b""
    while len(data) < size:
        piece = ssh.run(head.host, f"tail -c +{len(data) + 1} {place} | head -c {_PIECE}", seconds=60).out
        if not piece:
            return "The executed notebook changed while it was copied, and is not kept."
        data += piece
    with transaction.atomic():
        made = Output.objects.create(store=run.output.store, folder=f"{run.output.folder}.ipynb")
        made.append(Stream.STDOUT, data)
        made.end()
        Run.objects.filter(pk=run.pk).update(notebook=made)
        live.ring(*run.live_names())
    keeping.try_to_keep(made)
    return ""


def content(run: Run) -> bytes:
    """Of a run that has one. Raises `Passing` where its store does not give it."""
    assert run.notebook is not None
    return b"".join(stream_bytes(run.notebook))


# Shown


class Malformed(PortalError):
    """It is no notebook, in a sentence."""


@dataclass(frozen=True)
class Piece:
    """Of what a cell gave: a text, an image as a data: address, or why neither is shown."""

    text: str = ""
    image: str = ""
    missing: str = ""
    is_error: bool = False


@dataclass
class Cell:
    source: str
    is_code: bool
    count: int | None = None
    pieces: list[Piece] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(piece.is_error for piece in self.pieces)


def read(data: bytes) -> list[Cell]:
    """What is shown of each cell. Raises `Malformed`."""
    if sum(map(data.count, (b"[", b"{", b","))) > MOST_PARTS:
        raise Malformed("It is too long to be shown on a page.", advice="Download it.")
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("nbformat") != 4 or not isinstance(found.get("cells"), list):
            raise Malformed("What the run has left is no notebook of format 4.")
        page = _Page()
        cells = [page.cell(one) for one in found["cells"][:MOST_CELLS] if not _is_papermills(one)]
        if found["cells"][MOST_CELLS:]:
            more = len(found["cells"]) - MOST_CELLS
            cells.append(Cell(f"… {more:,} more cells, which the file has", is_code=False))
        return cells
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise Malformed("What the run has left cannot be read as a notebook.") from error


def _is_papermills(cell: dict[str, Any]) -> bool:
    """One that papermill has put before a cell that failed, to point at it in HTML."""
    tags = cell.get("metadata", {}).get("tags", [])
    return cell.get("cell_type") == "markdown" and "papermill-error-cell-tag" in tags


class _Page:
    def __init__(self) -> None:
        self.room = MOST_SHOWN

    def cell(self, cell: dict[str, Any]) -> Cell:
        source = self.text(cell.get("source", ""))
        if cell.get("cell_type") != "code":
            return Cell(source, is_code=False)
        count, outputs = cell.get("execution_count"), cell.get("outputs", [])
        pieces: list[Piece] = []
        for at, one in enumerate(outputs):
            if self.room <= 0:
                pieces.append(Piece(missing=f"{len(outputs) - at:,} more, for which there is no room on this page."))
                break
            pieces += self.pieces(one)
            self.room -= _OF_A_PIECE
        return Cell(source, True, count if isinstance(count, int) else None, pieces)

    def pieces(self, output: dict[str, Any]) -> Iterator[Piece]:
        match output.get("output_type"):
            case "stream":
                yield Piece(self.text(output.get("text", "")))
            case "error":
                lines = [_joined(line) for line in output.get("traceback", [])]
                words = f"{_joined(output.get('ename', ''))}: {_joined(output.get('evalue', ''))}"
                yield Piece(self.text("\n".join(lines) or words), is_error=True)
            case "display_data" | "execute_result":
                yield self.of_data(output.get("data", {}))

    def of_data(self, data: dict[str, Any]) -> Piece:
        """The image, or else the text: what else there is says the same in other ways."""
        for kind in _IMAGES:
            if kind in data:
                try:
                    plain = b64decode("".join(_joined(data[kind]).split()), validate=True)
                except (binascii.Error, ValueError):
                    return Piece(missing=f"An image that is no {kind}.")
                if len(plain) * 4 // 3 > self.room:
                    return Piece(missing="An image for which there is no room on this page; the file has it.")
                self.room -= len(plain) * 4 // 3
                return Piece(self.text(data.get("text/plain", "")), f"data:{kind};base64,{b64encode(plain).decode()}")
        if "text/plain" in data:
            return Piece(self.text(data["text/plain"]))
        kinds = ", ".join(plain_text(str(kind)[:40].encode(errors="replace")) for kind in list(data)[:5])
        return Piece(missing=f"Only as {kinds or 'nothing'}, which is not shown here; the file has it.")

    def text(self, given: object) -> str:
        whole = _joined(given)
        most = max(0, min(MOST_TEXT, self.room))
        shown = "\n".join(plain_text(line.encode(errors="replace")) for line in whole[:most].split("\n"))
        self.room -= len(shown) + _OF_A_LINE * shown.count("\n")
        if len(whole) > most:
            shown += f"\n… {len(whole) - most:,} more characters, which the file has"
        return shown.rstrip("\n")


def _joined(given: object) -> str:
    """A text, as notebooks have it: whole, or as lines."""
    if isinstance(given, list):
        return "".join(str(line) for line in given)
    return given if isinstance(given, str) else ""
