"""Mean, spread and significance over the seeds asked for.

Reads ``reports/{train,gate,evaluate,audit}/SEED.json`` of exactly the seeds in params.yaml and the baseline file of
``stats.baseline``; writes ``reports/aggregate.json``. A missing, foreign or failed report is refused by name.

    python -m stages.aggregate
"""

from __future__ import annotations

import argparse

from golf.params.base import load, load_seeds
from golf.params.budget import Budget
from golf.params.stats import Stats
from golf.records.results import aggregate, read_results
from golf.runtime.errors import run_main
from golf.runtime.report import write_report
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
    write_report("aggregate", aggregate(results, comparison, budget.artifact_bytes))
    print(f"aggregate: {comparison.verdict}")
    for flag in comparison.flags:
        print(f"aggregate: note: {flag}")


if __name__ == "__main__":
    run_main("aggregate", main)
