"""Rates on a CPU: positive, of every device, and with the reason where there are none."""

import pytest
import torch

from golf.machine import attention
from golf.machine.attention import speeds
from golf.machine.probe import tell
from golf.machine.products import rates
from golf.model.attention import NAMES
from golf.runtime.errors import ConfigError

CPU = torch.device("cpu")


def test_every_device_has_a_rate() -> None:
    found = rates([CPU, CPU], 0.02)
    assert len(found) == 2
    assert all(0.0001 < rate < 100 for rate in found)


@pytest.mark.parametrize("masked", [False, True])
def test_a_cpu_has_one_attention_and_says_how_to_get_the_others(masked: bool) -> None:
    found = speeds("auto", CPU, masked=masked)
    assert (found["chosen"], found["reason"]) == ("sdpa", "the only one on cpu")
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == set(NAMES) - {"flex"}
    assert rows["sdpa"]["tflops"] > 0
    assert all(row["missing"] and row["get"] for name, row in rows.items() if name != "sdpa")


def test_a_kernel_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> None:
        raise RuntimeError("undefined symbol:\n  _ZN3c10")

    monkeypatch.setattr(attention, "implementation", broken)
    row = next(row for row in speeds("auto", CPU, masked=False)["rows"] if row["name"] == "sdpa")
    assert row["missing"] == "RuntimeError: undefined symbol: _ZN3c10"


def test_a_forced_kernel_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hardware\.attention=fa3: needs a CUDA device"):
        speeds("fa3", CPU, masked=False)


def test_a_part_that_fails_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> dict:
        raise RuntimeError("CUDA driver\nis gone")

    tell("products", fails)
    tell("attention", lambda: {"chosen": "sdpa"})
    assert capsys.readouterr().out.splitlines() == [
        '{"part": "products", "error": "RuntimeError: CUDA driver is gone"}',
        '{"part": "attention", "chosen": "sdpa"}',
    ]
