import json
import subprocess
import sys
from pathlib import Path

from stages import bundle

ROOT = Path(__file__).resolve().parents[2]


def test_it_writes_a_program_that_runs_and_reports_only_sizes(tmp_path: Path) -> None:
    (tmp_path / "golf").symlink_to(ROOT / "golf")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    result = subprocess.run(
        [sys.executable, "-m", "stages.bundle"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    program = tmp_path / bundle.PROGRAM
    report = json.loads((tmp_path / "reports/bundle.json").read_text())
    assert set(report) == {"code_bytes", "modules"}
    assert report["code_bytes"] == program.stat().st_size
    (tmp_path / "golf").unlink()
    helped = subprocess.run(
        [sys.executable, "-I", program, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "evaluate" in helped.stdout
