"""Which stages two candidates share: those whose parameters, and whose inputs' parameters, no override tells apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Graph = Mapping[str, tuple[frozenset[str], frozenset[str]]]


def read_graph(stages: Mapping[str, Any]) -> Graph:
    """Of dvc.yaml's ``stages``: by stage the parameters it reads, and the stages whose outputs it reads.

    A matrix over seeds counts as one stage: two lists of seeds may share some.
    """
    made = {name: _paths(stage.get("outs", []) + stage.get("metrics", []) + stage.get("plots", []))
            for name, stage in stages.items()}  # fmt: skip
    found = {}
    for name, stage in stages.items():
        needs = _paths(stage.get("deps", []))
        params = {key for key in stage.get("params", []) if isinstance(key, str)}
        params |= {path[2:-1] for path in needs if path.startswith("${") and path.endswith("}")}
        above = {other for other, paths in made.items() if other != name and any(
            _within(need, path) or _within(path, need) for need in needs for path in paths)}  # fmt: skip
        found[name] = (frozenset(params), frozenset(above))
    return found


def shares(graph: Graph, overrides: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Each stage with the overrides that reach it: equal pairs are one computation."""
    found: dict[str, frozenset[str]] = {}

    def reach(stage: str) -> frozenset[str]:
        if stage not in found:
            params, above = graph[stage]
            own = {one for one in overrides if _reads(params, one.partition("=")[0])}
            found[stage] = frozenset(own).union(*(reach(other) for other in above))
        return found[stage]

    return frozenset((stage, json.dumps(sorted(reach(stage)))) for stage in graph)


def _reads(params: frozenset[str], key: str) -> bool:
    return key in params or key.partition(".")[0] in params


def _paths(entries: Sequence[Any]) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
