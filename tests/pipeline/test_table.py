"""The result table, whatever of the reports is there."""

import json
import os
import signal
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
        "aggregate.json": {"seeds": [42], "verdict": "2.0 bpb over 1 seed."},
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


def command(folder: Path, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    (folder / "params.yaml").write_text("seeds: [42]\n")
    return subprocess.run(
        [sys.executable, "-m", "pipeline.table"], cwd=folder, env={"PYTHONPATH": str(ROOT)},
        stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip


def test_the_command_prints_table_and_verdict(reports: Path) -> None:
    done = command(reports.parent)
    assert done.returncode == 0, done.stderr
    assert "1.9877" in done.stdout
    assert done.stdout.endswith("\n2.0 bpb over 1 seed.\n")


def test_a_verdict_on_other_seeds_is_not_shown(reports: Path) -> None:
    assert table.verdict([42], reports) == "2.0 bpb over 1 seed."
    assert table.verdict([42, 314], reports) == "no verdict on these seeds yet. Try: dvc repro"


def test_a_reader_that_has_enough_ends_it_without_a_word(reports: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = command(reports.parent, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_report_that_is_none_is_one_error(reports: Path, content: str) -> None:
    (reports / "quantize/42.json").write_text(content)
    done = command(reports.parent)
    assert done.returncode == 65
    assert done.stderr.startswith("table: reports/quantize/42.json: ")
    assert done.stderr.endswith(". Try: dvc repro -f -s quantize@42\n")


def test_without_reports_it_says_what_to_do(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (66, "table: reports/: no such folder. Try: make run\n")
    assert table.verdict([42], tmp_path) == "no verdict on these seeds yet. Try: dvc repro"
