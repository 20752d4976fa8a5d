"""A sweep killed twice, once with all that it started: the same table, and no stage begun more than that needs."""

from pathlib import Path

import pytest

from benchmarks import sweep


@pytest.mark.slow
def test_a_killed_sweep_ends_with_the_same_table(tmp_path: Path) -> None:
    folder = sweep.checkout(tmp_path / "killed", toy=True, seconds=1.0, seeds=[42])
    words = sweep.command(("quant.bits=5,6", "eval.stride=64,96"))
    _, kills, begun = sweep.kill(folder, words, kills=2, seconds=16.0, seed=1)
    assert sweep.table(folder) == {
        f"quant.bits={bits} eval.stride={stride}": [{"42": sweep.toy_bpb(bits, stride, 42)}, None, None]
        for bits in (5, 6) for stride in (64, 96)
    }  # fmt: skip
    assert set(begun) == {"train@42", "evaluate@42"}
    assert begun.total() <= 5 + kills
    assert not sweep.changed(folder)
