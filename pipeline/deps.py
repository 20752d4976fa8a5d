"""Hold the code that dvc.yaml lists for each stage against the code that the stage imports.

    python -m pipeline.deps            # say what is missing or too much; exit code 1 then
    python -m pipeline.deps --write    # mend dvc.yaml, touching nothing but those lines

A package is listed as a folder, except the shared ones (``SHARED``), whose modules are listed one by one: an edit
of one knob's dataclass, or of a helper, then reruns only who uses it. A stage that imports many modules of data or
parameters (``MANY``) lists that folder too: it is none of the slow ones, and DVC reads each line of dvc.lock slowly,
anew for every stage that ran. So does one that imports nearly all of ``golf/quant`` (``MOST``), which has little to
spare there; never one that trains.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.runtime.errors import FairwayError, run_main
from golf.runtime.files import whole_file
from pipeline.imports import closure

SHARED = ("golf", "golf/params", "golf/runtime", "golf/data", "golf/quant", "stages", "pipeline")
FOLDED = ("golf/data", "golf/params")  # of the shared ones
QUANT = "golf/quant"
MANY = 8  # modules
MOST = 0.75  # share of golf/quant's modules
CODE = ("golf/", "stages/", "pipeline/")


@dataclass(frozen=True)
class Difference:
    """One line that dvc.yaml lacks, or has without need."""

    stage: str
    path: str
    missing: bool

    def __str__(self) -> str:
        if self.missing:
            return f"stage {self.stage!r} imports {self.path} but dvc.yaml does not list it"
        return f"stage {self.stage!r} lists {self.path} in dvc.yaml but does not import it"


def entry(command: str) -> str:
    """The module that a stage's command runs."""
    words = command.split()
    if words[:2] != ["python", "-m"]:
        raise FairwayError(f"dvc.yaml: command {command!r} is not `python -m MODULE …`")
    return words[2]


def needed(command: str, root: Path) -> list[str]:
    """The code dependencies of the stage that runs ``command``, sorted, as dvc.yaml writes them."""
    return collapse(closure(entry(command), root), root)


def collapse(files: set[Path], root: Path) -> list[str]:
    """Files as dependencies: folders for packages, single modules for what is shared."""
    found = set()
    counts = Counter(path.parent.as_posix() for path in files if path.name != "__init__.py")
    folded = {folder for folder in FOLDED if counts[folder] >= MANY}
    if counts[QUANT] >= max(MANY, MOST * len(list((root / QUANT).glob("[!_]*.py")))):
        folded.add(QUANT)
    for path in files:
        folder = path.parent.as_posix()
        if folder not in SHARED or folder in folded:
            found.add("/".join(path.parts[:2]))
        elif path.name != "__init__.py" or _has_code(root / path):
            found.add(path.as_posix())
    return sorted(found)


def differences(root: Path) -> list[Difference]:
    """What dvc.yaml lists too little or too much of, over all stages."""
    found = []
    for stage, definition in _stages(root).items():
        listed = {dep for dep in definition.get("deps") or [] if dep.startswith(CODE)}
        wanted = set(needed(definition["cmd"], root))
        found += [Difference(stage, path, True) for path in sorted(wanted - listed)]
        found += [Difference(stage, path, False) for path in sorted(listed - wanted)]
    return found


def rewrite(text: str, wanted: dict[str, list[str]]) -> str:
    """``text`` of dvc.yaml with the code of each stage's ``deps`` replaced; all other lines stay as they are."""
    lines, out, stage = text.splitlines(), [], ""
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith("  ") and line[2:3].strip() and line.rstrip().endswith(":"):
            stage = line.strip().rstrip(":")
        out.append(line)
        if not (stage in wanted and line.startswith("    deps:")):
            continue
        out[-1] = line.replace("deps: []", "deps:")
        others = []
        while number < len(lines) and lines[number].startswith("      - "):
            others.append(lines[number])
            number += 1
        out += [f"      - {path}" for path in wanted[stage]]
        out += [other for other in others if not other.strip()[2:].startswith(CODE)]
    return "\n".join(out) + "\n"


def _stages(root: Path) -> dict[str, dict[str, Any]]:
    import yaml

    return yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def _has_code(path: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def main() -> None:
    """Compare, and mend when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="mend dvc.yaml")
    arguments = parser.parse_args()
    root = Path.cwd()
    if arguments.write:
        wanted = {name: needed(definition["cmd"], root) for name, definition in _stages(root).items()}
        text = (root / "dvc.yaml").read_text(encoding="utf-8")
        with whole_file(root / "dvc.yaml") as temporary:
            temporary.write_text(rewrite(text, wanted), encoding="utf-8")
    found = differences(root)
    if found:
        raise FairwayError("\n".join(map(str, found)), hint="python -m pipeline.deps --write")
    print("dvc.yaml lists exactly the code that the stages import", file=sys.stderr)


if __name__ == "__main__":
    run_main("deps", main)
