"""The benchmark of attention on a CPU: its table, its file, and what it says of what is wrong or not there."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import attention
from golf.model.attention import NAMES, number_tokens
from golf.runtime.errors import ConfigError
from tests.golf.train.tiny import write_shards

SHAPE = attention.Shape(3, 32, 4, 2, 8)
CPU = torch.device("cpu")


def measured(name: str) -> list[dict[str, Any]]:
    forms = [attention.whole_rows(SHAPE), attention.packed(SHAPE, None, CPU)]
    return list(attention.measure_all([name], forms, SHAPE, torch.float32, CPU))


def test_every_implementation_has_its_line_and_what_is_here_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attention.main(["--shape", *map(str, SHAPE), "--out", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr().out
    assert written["dtype"] == "float32"
    assert {row["name"] for row in written["rows"]} == set(NAMES)
    done = {(row["name"], row["form"]): row for row in written["rows"] if "reason" not in row}
    if not torch.cuda.is_available():
        assert set(done) == {("sdpa", "rows"), ("sdpa", "documents")}
    for row in done.values():
        assert max(row["output_error"], row["gradient_error"]) < 1e-5
        assert 0 < row["forward_ms"] < row["both_ms"]
    for row in written["rows"]:
        assert f"\n{row['name']}" in printed
        assert "form" in row or "needs" in row["reason"] or "not installed" in row["reason"]


def test_documents_are_those_of_the_shards_and_see_only_themselves(tmp_path: Path) -> None:
    form = attention.packed(SHAPE, write_shards(tmp_path / "shards"), CPU)
    assert (form.rows, form.tokens, sum(form.lengths)) == (1, 96, 96)
    assert max(form.lengths) <= SHAPE.tokens, "training cuts longer documents"
    assert form.documents is not None
    numbers = number_tokens(form.documents, 1, 96)[0]
    visible = (numbers[:, None] == numbers[None, :]).tril()
    assert form.pairs == int(visible.sum())
    assert attention.whole_rows(SHAPE).pairs == 3 * 32 * 33 // 2


def test_a_wrong_gradient_is_told_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.implementation("sdpa")

    def wrong(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        return right(q, k, 1.01 * v - 0.01 * v.detach(), mask)

    monkeypatch.setattr(attention, "implementation", lambda _: wrong)
    monkeypatch.setattr(attention, "milliseconds", lambda *_: pytest.fail("timed"))
    for row in measured("sdpa"):
        assert row["reason"].startswith("wrong: error "), row
        assert row["reason"].endswith("needed at most 1e-05"), row


def test_a_gradient_that_is_no_number_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.implementation("sdpa")

    def no_number(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        v = v.clone()
        v.register_hook(lambda gradient: gradient * math.nan)
        return right(q, k, v, mask)

    monkeypatch.setattr(attention, "implementation", lambda _: no_number)
    assert all("gradients' nan, needed" in row["reason"] for row in measured("sdpa"))


def test_one_that_fails_has_a_line_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no kernel\nfor this shape")

    monkeypatch.setattr(attention, "implementation", lambda _: broken)
    reasons = [row["reason"] for row in measured("sdpa")]
    assert reasons == ["RuntimeError: no kernel for this shape"] * 2


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--only: found 'fastest', needed some of fa3"):
        attention.main(["--only", "sdpa,fastest"])
