"""Files of a repository, and a page's content, as small as a test needs them."""

import json
from pathlib import Path
from typing import Any

from pipeline.report.content import columns

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"


def write(root: Path, path: str, content: object) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def record(folder: str, bpb: float, **changes: Any) -> dict[str, Any]:
    """A row of ``fairway records --json``."""
    number = {"value": bpb, "source": "submission.json:3"}
    return {
        "folder": folder,
        "name": folder.title(),
        "author": "somebody",
        "date": "2026-04-01",
        "track": "track_10min_16mb",
        "legal": True,
        "mean": bpb,
        "seeds": [{"bpb": number}, {"bpb": {**number, "value": bpb + 0.001}}],
        "sizes": {"stated": {"value": 15_900_000, "source": "x"}, "logged": None},
        "text": {"bytes": {"value": 151_080_363, "source": "x"}, "relation": "whole"},
        "significance": {"verdict": "better than before"},
        "findings": [{"kind": "std", "text": "divides by n"}],
        **changes,
    }


def ledger(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "sweep": name,
        "stopped": "all candidates have run",
        "complete": True,
        "seconds": 120.0,
        "dollars": 2.5,
        "rest_dollars": 0.5,
        "stages": {"train": 100.0},
        "runs": [{"failed": None}, {"failed": "it broke"}],
        **changes,
    }


def effect(switch: str, **changes: Any) -> dict[str, Any]:
    return {"switch": switch, "difference": 0.002, "interval": [0.001, 0.003], "basis": "noise floor", "before": None,
            "ms_per_step": 1.5, "total_bytes": -10, "verdict": "harmful", **changes}  # fmt: skip


def entry(place: int, **changes: Any) -> dict[str, Any]:
    return {"origin": "own", "id": f"run{place}", "name": f"state {place}", "author": "", "time": 1.79e12 + 1e9 * place,
            "bpb": 1.2 - 0.001 * place, "std": 0.0005, "seeds": 1, "bytes": 15_900_000, "legal": True, "fits": True,
            "text": "FineWeb validation", "note": "", "sweep": "", **changes}  # fmt: skip


def content(states: int = 60) -> dict[str, Any]:
    """Of a page: states of one seed, the first illegal, the second over the cap; two records; a bit of the rest."""
    entries = [entry(i) for i in range(states)]
    entries[0] |= {"legal": False, "bpb": 0.9}
    entries[1] |= {"fits": False, "bytes": 16_100_000, "bpb": 0.95}
    entries[2] |= {"name": HOSTILE, "note": HOSTILE}
    entries[3] |= {"text": "text of 5,000 bytes"}
    entries += [
        entry(i, origin="published", name=f"record {i}", author="somebody", findings=HOSTILE) for i in (100, 101)
    ]
    runs = [
        {
            "entry": i,
            "seed": 42,
            "configuration": i % 3,
            "bpb": one["bpb"],
            "pre": 1.19,
            "post": 1.2,
            "gap": 0.01,
            "bytes": one["bytes"],
            "slack": 16_000_000 - one["bytes"],
            "audit": one["legal"] * 1.0,
            "bits": 6.0,
            "ms": 90.0 + i,
            "seconds": 600.0,
            "dollars": 4.0,
            "device": "H100" if i % 2 else HOSTILE,
            "time": one["time"],
            "restored": 0,
        }
        for i, one in enumerate(entries[:states])
    ]
    return {
        "created": "2026-01-01 00:00 UTC",
        "experiment": HOSTILE,
        "root": "lab",
        "entries": columns(entries),
        "runs": columns(runs),
        "params": {"quant.bits": {"values": ["5", "6", HOSTILE], "of": [i % 3 for i in range(states)]}},
        "curves": [{"run": i, "step": [1, 2, 3], "loss": [3.0, 2.0, 1.0 + i]} for i in range(12)],
        "spend": [{"device": HOSTILE, "stage": "train", "seconds": 3600.0, "dollars": 3.0, "runs": 4}],
        "priced": True,
        "noise": {"std": 0.0006, "runs": 60, "detectable": 0.002, "alpha": 0.01},
        "effects": [
            {**effect(HOSTILE), "table": "ablate", "low": 0.001, "high": 0.003},
            {**effect("a=1", difference=-0.1), "table": "ablate", "low": -0.2, "high": -0.05},
        ],
        "ledgers": [
            {
                "sweep": HOSTILE,
                "stopped": HOSTILE,
                "complete": True,
                "seconds": 1.0,
                "dollars": None,
                "rest": None,
                "runs": 1,
                "failed": 0,
                "stages": {HOSTILE: 1.0},
            }
        ],
        "machines": [
            {"machine": HOSTILE, "device": "0: H100", "tflops": 700.0, "peak": 989.0, "attention": None, "chosen": ""}
        ],
        "streams": [{"seed": 42, "stream": HOSTILE, "bytes": 10, "raw": 20, "codec": "rans"}],
        "log": [[f"idea `{HOSTILE}`", "measured | `a|b`", HOSTILE]],
        "left_out": [{"what": HOSTILE, "why": HOSTILE}],
    }
