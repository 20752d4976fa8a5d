"""The result table, whatever of the reports is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    for path, content in {
        "quantize/42.json": {"pre_bpb": 2.01234, "post_bpb": 2.05},
        "evaluate/42.json": {"bpb": 1.98766},
        "gate/42.json": {"total_bytes": 234567, "slack_bytes": 15765433},
        "audit/42.json": {"passed": True},
        "audit/314.json": {"passed": False},
        "aggregate.json": {"verdict": "2.0 bpb over 1 seed."},
    }.items():
        (tmp_path / "reports" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reports" / path).write_text(json.dumps(content))
    return tmp_path / "reports"


def test_rows_round_and_show_what_is_missing(reports: Path) -> None:
    assert table.rows([42, 314], reports) == [
        ("42", "2.0123", "2.0500", "1.9877", "234,567", "15,765,433", "passed"),
        ("314", "-", "-", "-", "-", "-", "FAILED"),
    ]


def test_markdown_has_a_row_a_seed(reports: Path) -> None:
    lines = table.markdown(table.rows([42, 314], reports)).splitlines()
    assert lines[0].startswith("| seed | pre-quant bpb |")
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_plain_columns_line_up(reports: Path) -> None:
    assert len({len(line) for line in table.plain(table.rows([42, 314], reports)).splitlines()}) == 1


def test_the_command_prints_table_and_verdict(reports: Path) -> None:
    (reports.parent / "params.yaml").write_text("seeds: [42]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.table"],
        cwd=reports.parent, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "1.9877" in done.stdout
    assert done.stdout.endswith("\n2.0 bpb over 1 seed.\n")


def test_without_reports_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seeds: [42]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.table"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (66, "table: reports/: no such folder. Try: make run\n")
    assert table.verdict(tmp_path) == "no verdict yet. Try: dvc repro"
