"""What a notebook's run leaves: what papermill has written, without the values of secret variables.

Standard library only, Python 3.9 or newer.
"""

import contextlib
import json
import os

WRITTEN, KEPT = "executing.ipynb", "executed.ipynb"  # as jobs/notebooks.py has them
MOST = 32 * 1024 * 1024  # bytes; the portal keeps none as large as that


def publish(folder, hider):
    """For the portal, under the name that it asks for. What cannot be read has no such name."""
    written = folder / WRITTEN
    if written.is_symlink() or not written.is_file():
        return
    with contextlib.suppress(OSError, ValueError, RecursionError, MemoryError):  # the run's verdict is still to come
        if hider.wanted and written.stat().st_size <= MOST:
            hidden = json.dumps(_hidden(json.loads(written.read_bytes()), hider), indent=1, ensure_ascii=False)
            draft = folder / f"{WRITTEN}.new"
            draft.write_text(hidden, encoding="utf-8")
            draft.replace(written)
        os.replace(written, folder / KEPT)


def _hidden(found, hider):
    """The same without the values. Texts that are lines are looked through as a whole: a value may have several."""
    if isinstance(found, str):
        return hider.text(found)
    if isinstance(found, (int, float)):
        number = json.dumps(found)
        return hider.text(number) if number.encode() in hider.wanted else found
    if isinstance(found, dict):
        return {hider.text(name): _hidden(one, hider) for name, one in found.items()}
    if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        whole = "".join(found)
        hidden = hider.text(whole)
        return found if hidden == whole else hidden.splitlines(keepends=True)
    return [_hidden(one, hider) for one in found] if isinstance(found, list) else found
