"""What a finished graph leaves, and MLflow states of it, made in milliseconds."""

import json
import subprocess
from pathlib import Path

from golf.params.base import to_dict
from golf.params.stats import Stats
from pipeline.graph_state import SEED_STAGES, read_state
from pipeline.mlflow_store import absolute_uri, open_store
from pipeline.track import upsert

BYTES, TOKENS = 1_000_000, 400_000


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def graph(
    root: Path,
    scores: dict[int, float],
    *,
    bits: int = 6,
    alpha: float = 0.01,
    trained_at: float = 1.7e9,
    size: int = 900,
) -> Path:
    """Reports, timings and parameters of seeds with these scores."""
    seeds, reports = list(scores), root / "reports"
    params = {"seeds": seeds, "quant": {"bits": bits}, "stats": {"alpha": alpha}}
    write(root / "build/submission/params.json", params)
    write(
        reports / "aggregate.json",
        {"seeds": seeds, "verdict": "made up", "bpb_mean": sum(scores.values()) / len(seeds)},
    )
    for seed, bpb in scores.items():
        for order, stage in enumerate(SEED_STAGES):
            numbers = {
                "evaluate": {"bpb": bpb, "bytes": BYTES, "tokens": TOKENS}, "gate": {"total_bytes": size + seed},
            }.get(stage, {})  # fmt: skip
            write(reports / stage / f"{seed}.json", {"seed": seed, **numbers})
            timing = {"started_at": trained_at + order, "seconds": 100.0, "device": "cpu"}
            write(reports / "timing" / stage / f"{seed}.json", timing)
    sections = [
        f"seeds: {seeds}", "hardware: {dollars_per_hour: 3.6}", f"quant: {{bits: {bits}}}",
        f"stats: {json.dumps(to_dict(Stats()))}",
        "tracking: {uri: sqlite:///mlflow.db, experiment: test, notify: ''}",
    ]  # fmt: skip
    write(root / "params.yaml", "\n".join(sections) + "\n")
    return root


def log_state(root: Path, **tags: str) -> None:
    """Log what lies in ``root`` to its MLflow store."""
    seeds = json.loads((root / "build/submission/params.json").read_text())["seeds"]
    with open_store(absolute_uri("sqlite:///mlflow.db", root)) as client:
        found = client.get_experiment_by_name("test")
        number = found.experiment_id if found else client.create_experiment("test", (root / "art").as_uri())
        upsert(client, number, read_state(root, seeds), tags)


def committed(root: Path) -> Path:
    """A checkout of what is in ``root``, with the folders that a user's own text would be in."""
    for name in ("train", "val", "tokenizer"):
        (root / "data/source" / name).mkdir(parents=True)
        (root / "data/source" / name / "README.md").write_text("Put it here.\n")
    git(root, "init", "-q", ".")
    for key, value in (("user.name", "t"), ("user.email", "t@t")):
        git(root, "config", key, value)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "start")
    return root


def git(root: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *names, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
