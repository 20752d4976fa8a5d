import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages import bundle

ROOT = Path(__file__).resolve().parents[2]


def test_it_writes_a_program_that_runs_and_reports_only_sizes(tmp_path: Path) -> None:
    (tmp_path / "golf").symlink_to(ROOT / "golf")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "stages.bundle"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    program = tmp_path / bundle.PROGRAM
    report = json.loads((tmp_path / "reports/bundle.json").read_text())
    assert set(report) == {"code_bytes", "modules"}
    assert report["code_bytes"] == program.stat().st_size
    rows = list(csv.DictReader((tmp_path / "reports/bundle.csv").open()))
    assert len(rows) == report["modules"]
    assert sum(float(row["bytes"]) for row in rows) == pytest.approx(report["code_bytes"], abs=len(rows))
    (tmp_path / "golf").unlink()
    helped = subprocess.run(
        [sys.executable, "-I", program, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "evaluate" in helped.stdout
    refused = subprocess.run(
        [sys.executable, tmp_path / bundle.CHECKER, "audit"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--artifact" in refused.stderr
