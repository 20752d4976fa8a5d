"""What changes along a run, and when."""

import dataclasses

import pytest

from golf.params.model import Model
from golf.params.train import Train
from golf.runtime.errors import ConfigError
from golf.train.phases import Phase, all_phases, check_loop, phase_at

PLAIN = Train(batch_tokens=8192, micro_batch_tokens=2048, seq_len=512, qat_share=0.0)
GROWN = dataclasses.replace(
    PLAIN, seq_growth=((0.1, 128), (0.7, 256)), batch_growth=((0.25, 4096),), loop_shares=(0.35,), qat_share=0.2
)


def test_nothing_changes_by_default() -> None:
    assert all_phases(PLAIN, 1) == [Phase(512, 8192, 1, False)]
    assert all_phases(PLAIN, 3) == [Phase(512, 8192, 3, False)], "a loop without shares is there from the start"


def test_every_phase_comes_at_its_share_and_none_is_missed() -> None:
    expected = [
        (0.0, Phase(128, 4096, 1, False)),
        (0.1, Phase(256, 4096, 1, False)),
        (0.25, Phase(256, 8192, 1, False)),
        (0.35, Phase(256, 8192, 3, False)),
        (0.7, Phase(512, 8192, 3, False)),
        (0.8, Phase(512, 8192, 3, True)),
    ]
    assert all_phases(GROWN, 3) == [phase for _, phase in expected]
    for (begin, phase), (end, _) in zip(expected, [*expected[1:], (1.0, None)], strict=True):
        assert phase_at(begin, GROWN, 3) == phase_at(end - 1e-9, GROWN, 3) == phase
    seen = {phase_at(step / 1000, GROWN, 3) for step in range(1001)}
    assert seen == set(all_phases(GROWN, 3))


def test_passes_come_one_by_one_when_each_has_a_share() -> None:
    staged = dataclasses.replace(PLAIN, loop_shares=(0.5, 0.65))
    assert [phase_at(share, staged, 3).passes for share in (0.0, 0.49, 0.5, 0.64, 0.65, 1.0)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("passes", "shares"), [(1, (0.5,)), (4, (0.2, 0.4)), (2, (0.2, 0.4))])
def test_shares_that_do_not_fit_the_loop_are_refused(passes: int, shares: tuple[float, ...]) -> None:
    message = (
        rf"loop_shares: found {len(shares)} for the {passes - 1} extra passes of model.loop_passes = {passes}.*Try"
    )
    with pytest.raises(ConfigError, match=message):
        check_loop(dataclasses.replace(PLAIN, loop_shares=shares), Model(loop_passes=passes))
    check_loop(dataclasses.replace(PLAIN, loop_shares=None), Model(loop_passes=passes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_growth": ((0.1, 200),)}, r"train.seq_growth: .*needed lengths of 16 or more that divide train.seq_len"),
        ({"seq_growth": ((0.1, 512),)}, r"needed sizes that rise to 512"),
        ({"seq_growth": ((0.1, 256), (0.5, 128))}, r"needed sizes that rise to 512"),
        ({"seq_growth": ((0.5, 128), (0.1, 256))}, r"needed shares that rise between 0 and 1"),
        ({"seq_growth": ((1.0, 128),)}, r"needed shares that rise between 0 and 1"),
        ({"batch_growth": ((0.1, 1000),)}, r"train.batch_growth: .*needed multiples of 512 tokens"),
        ({"batch_growth": ((0.1, 1024),), "pack": "documents"}, r"needed multiples of 2048 tokens"),
        ({"loop_shares": (0.5, 0.5)}, r"train.loop_shares: .*needed shares that rise between 0 and 1"),
        ({"seq_len": 16384}, r"train.seq_len: found 16384, needed at most micro_batch_tokens \(2048\)"),
    ],
)
def test_growth_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(PLAIN, **change)  # type: ignore[arg-type]


def test_packed_documents_take_lengths_that_do_not_divide() -> None:
    """The records' own growth: 1,024, 2,048, 3,072."""
    grown = ((0.1, 1024), (0.7, 2048))
    Train(batch_tokens=98304, micro_batch_tokens=98304, seq_len=3072, pack="documents", seq_growth=grown)
