"""Mean, spread and significance over the seeds asked for.

Reads ``reports/{train,quantize,gate,evaluate,audit}/SEED.json`` of exactly the seeds in params.yaml, their curves and
artifacts' streams, and the baseline file of ``stats.baseline``; writes ``reports/aggregate.json``, of it the numbers
that ``dvc metrics diff`` shows, ``reports/result.json``, and what ``dvc plots show`` draws of all seeds together,
``reports/drawn``. A missing, foreign or failed report is refused by name.

    python -m stages.aggregate
"""

from __future__ import annotations

import argparse

from golf.params.base import load, load_seeds
from golf.params.budget import Budget
from golf.params.stats import Stats
from golf.records.drawn import gaps, losses, streams
from golf.records.results import aggregate, headline, read_results
from golf.runtime.errors import run_main
from golf.runtime.files import whole_directory
from golf.runtime.report import REPORTS, write_report
from golf.stats.baseline import load_baseline
from golf.stats.verdict import compare


def main() -> None:
    """Test the seeds against the baseline."""
    argparse.ArgumentParser(
        prog="python -m stages.aggregate", description="Test seeds against a baseline."
    ).parse_args()
    seeds, stats, budget = load_seeds(), load(Stats), load(Budget)
    baseline = load_baseline(stats.baseline)
    results = read_results(seeds, budget.artifact_bytes)
    comparison = compare(
        list(results.bpb.values()),
        results.bytes,
        baseline,
        alpha=stats.alpha,
        margin_nats=stats.margin_nats,
        flags=results.flags,
    )
    tables = {"loss": losses(seeds), "gap": gaps(seeds), "streams": streams(seeds)}
    with whole_directory(REPORTS / "drawn") as folder:
        for name, text in tables.items():
            (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    whole = aggregate(results, comparison, budget.artifact_bytes)
    write_report("aggregate", whole)
    write_report("result", headline(whole))
    print(f"aggregate: {comparison.verdict}")
    for flag in comparison.flags:
        print(f"aggregate: note: {flag}")


if __name__ == "__main__":
    run_main("aggregate", main)
