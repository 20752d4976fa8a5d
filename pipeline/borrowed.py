"""What DVC may have been killed at while an experiment began, put back when the next one begins.

Even with ``--temp`` DVC begins in the workspace: see :mod:`pipeline.campaign.sweep.workspace`, which knows its traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from golf.runtime.files import read_json, write_json
from pipeline.campaign.sweep.workspace import branch, keep, put_back, workspace_state

FOLDER = Path("logs/experiment")
NOTE = "begun.json"


class Borrowed:
    """The workspace while an experiment runs; a note on the disk tells whether one was cut off.

    The checkout's lock must be held, by who asks for anything here.
    """

    def __init__(self, overrides: Sequence[str], tell: Callable[[str], None]) -> None:
        self.overrides, self.tell, self.begun = list(overrides), tell, False

    def restore(self) -> None:
        """Put back what a killed experiment left, for whatever runs next in the workspace."""
        root, note = Path.cwd(), FOLDER / NOTE
        try:
            left = read_json(note)
            before = left["state"], left["branch"], [left["overrides"]]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            self.tell(f"{note}: damaged ({error}): what a killed run left is not put back. Try: git status")
        else:
            for line in put_back(root, FOLDER, *before):
                self.tell(line)
            note.unlink()

    def begin(self) -> None:
        """Restore, and write down what is here now."""
        self.restore()
        root = Path.cwd()
        keep(root, FOLDER)
        write_json(FOLDER / NOTE, {"state": workspace_state(root), "branch": branch(root), "overrides": self.overrides})
        self.begun = True

    def end(self) -> None:
        """It ended by itself: DVC has put its things away."""
        if self.begun:
            (FOLDER / NOTE).unlink(missing_ok=True)
