import dataclasses
import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from golf.params.eval import Eval
from golf.runtime.errors import DataError
from golf.scoring import state
from golf.scoring.bpb import SidecarBytes
from golf.scoring.evaluator import SlidingScorer, TestTimeTrainer, evaluate
from golf.scoring.learner import Learner
from golf.scoring.state import checksums, digest, summaries
from golf.scoring.windows import Windows
from tests.golf.model.tiny import BOS, VOCAB, tiny

CONFIG = Eval(ttt="sgd", seq_len=32, stride=12, batch_windows=4, ttt_chunk_tokens=70, ttt_epochs=2, ttt_lr=0.02)


def stream(count: int, seed: int = 0) -> Tensor:
    """Tokens that repeat enough for a learner to gain from them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 12, (count,), generator=generator)
    ids[::37] = BOS
    return ids


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (5, 4)])
def test_windows_score_every_target_once(length: int, stride: int) -> None:
    windows = Windows(length, stride, 2)
    for count in range(2, 60):
        times = torch.zeros(count, dtype=torch.int64)
        for window in range(windows.count(count)):
            start, stop = windows.first_target(window), min(windows.stop_target(window), count)
            assert window * stride + 1 <= start < stop <= window * stride + length + 1
            times[start:stop] += 1
            assert {windows.holding(position) for position in range(start, stop)} == {window}
        assert times.tolist() == [0] + [1] * (count - 1)


def test_scores_are_those_of_the_model_one_window_at_a_time() -> None:
    model, tokens = tiny().eval(), stream(131)
    scores = SlidingScorer(model, CONFIG).score(tokens)
    windows = Windows(32, 12, 4)
    with torch.no_grad():
        for position in range(1, 131):
            start = windows.holding(position) * 12
            logits = model(tokens[None, start:position])[0, -1]
            needed = torch.log_softmax(logits.double(), -1)[tokens[position]]
            assert float(scores[position - 1]) == pytest.approx(float(needed), abs=1e-5)


@pytest.mark.parametrize("count", [2, 3, 32, 33, 34, 45, 70, 71, 72, 82, 141, 142, 211])
def test_a_prefix_scores_the_same_bits(count: int) -> None:
    model, tokens = tiny(), stream(300)
    for kind in (SlidingScorer, TestTimeTrainer):
        whole, prefix = kind(model, CONFIG).score(tokens), kind(model, CONFIG).score(tokens[:count])
        assert torch.equal(whole[: count - 1], prefix)


@pytest.mark.parametrize(
    "config", [CONFIG, Eval(ttt="sgd", seq_len=16, stride=16, batch_windows=3, ttt_chunk_tokens=16)]
)
def test_distribution_is_what_scored(config: Eval) -> None:
    model, tokens = tiny(), stream(200)
    for kind in (SlidingScorer, TestTimeTrainer):
        scores = kind(model, config).score(tokens)
        for position in (1, 31, 32, 33, 70, 71, 72, 150, 199):
            found = kind(model, config).distribution(tokens, position)
            assert found.dtype == torch.float64
            assert found.shape == (VOCAB,)
            assert float(found.sum()) == pytest.approx(1, abs=1e-12)
            assert float(found[tokens[position]].log()) == pytest.approx(float(scores[position - 1]), abs=1e-5)


def test_chunks_are_learnt_after_they_are_scored_and_cover_the_stream() -> None:
    trainer = TestTimeTrainer(tiny(), CONFIG)
    trainer.score(stream(300))
    assert [event.kind for event in trainer.trace] == ["score", "update"] * 4 + ["score"]
    scored, place = 1, 0
    for event in trainer.trace:
        if event.kind == "score":
            assert event.start == scored
            scored = event.stop
        else:
            assert (event.start, event.stop) == (1 + 70 * place, 71 + 70 * place)
            assert event.stop <= scored
            place += 1
    assert scored == 300
    states = [event.state for event in trainer.trace]
    assert states[1::2] == states[2::2]  # nothing moves between an update and the next chunk's scores
    assert len(set(states)) == 5
    assert trainer.adapted == 4


def test_training_helps_and_leaves_the_model_alone() -> None:
    model, tokens = tiny(), stream(700)
    before = digest(model)
    plain, trained = SlidingScorer(model, CONFIG).score(tokens), TestTimeTrainer(model, CONFIG).score(tokens)
    assert float(trained.mean()) > float(plain.mean()) + 0.05
    assert torch.equal(trained[:70], plain[:70])
    assert digest(model) == before
    trainer = TestTimeTrainer(model, CONFIG)
    assert torch.equal(trainer.score(tokens), trained)
    assert torch.equal(trainer.score(tokens), trained)  # a second call starts over


def test_a_spent_budget_ends_the_adaptation_and_not_the_scoring() -> None:
    model, tokens = tiny(), stream(300)
    trainer = TestTimeTrainer(model, CONFIG, deadline=time.monotonic() - 1)
    assert torch.equal(trainer.score(tokens), SlidingScorer(model, CONFIG).score(tokens))
    assert trainer.adapted == 0


def test_training_ends_while_there_is_time_to_score_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, now = tiny(), stream(1200), [0.0]
    learn, score = Learner.learn, TestTimeTrainer._score_chunk

    def slow_lesson(self: Learner, chunk: Tensor) -> None:
        now[0] += 10.0
        learn(self, chunk)

    def slow_scoring(self: TestTimeTrainer, *arguments: Any) -> None:
        now[0] += 2.0
        score(self, *arguments)

    monkeypatch.setattr(Learner, "learn", slow_lesson)
    monkeypatch.setattr(TestTimeTrainer, "_score_chunk", slow_scoring)
    monkeypatch.setattr("golf.scoring.evaluator.time.monotonic", lambda: now[0])
    monkeypatch.setattr("golf.scoring.learner.time.monotonic", lambda: now[0])
    trainer = TestTimeTrainer(model, CONFIG, deadline=100.0)
    trainer.score(tokens)
    assert now[0] <= 100.0
    assert trainer.adapted == 6, "17 chunks are scored in 34 seconds, a lesson takes 10"
    now[0] = 0.0
    short = TestTimeTrainer(model, CONFIG, deadline=40.0)
    short.score(tokens)
    assert now[0] <= 40.0, "nor is the first lesson, of which nothing is known yet, begun too late"
    assert short.adapted == 0


def test_evaluate_sums_what_it_scores() -> None:
    model, tokens = tiny(), stream(300)
    counter = SidecarBytes(torch.arange(300) % 4)
    result = evaluate(model, tokens, counter, CONFIG)
    assert result["nll"].shape == (299,)
    assert result["bytes"] == int((torch.arange(1, 300) % 4).sum())
    assert result["final_bpb"] == pytest.approx(result["nll"].sum() / math.log(2) / result["bytes"], rel=1e-12)
    assert (result["chunks"], result["adapted_chunks"]) == (5, 4)
    assert set(result["seconds"]) == {"final", "sliding", "roundtrip"}
    plain = evaluate(model, tokens, counter, dataclasses.replace(CONFIG, ttt="none"))
    assert plain["final_bpb"] == plain["sliding_bpb"] == result["sliding_bpb"]
    assert plain["roundtrip_bpb"] == result["roundtrip_bpb"]
    no_overlap = evaluate(model, tokens, counter, dataclasses.replace(CONFIG, ttt="none", stride=32))
    assert no_overlap["final_bpb"] == no_overlap["roundtrip_bpb"] == result["roundtrip_bpb"]
    late = evaluate(model, tokens, counter, CONFIG, deadline=0.0)
    assert late["final_bpb"] == late["sliding_bpb"]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (torch.tensor([1]), "has no target"),
        (torch.tensor([], dtype=torch.int64), "has no target"),
        (torch.tensor([[1, 2]]), "has no target"),
        (torch.tensor([1, VOCAB]), "another tokenizer"),
        (torch.tensor([-1, 1]), "another tokenizer"),
    ],
)
def test_streams_without_a_score_are_refused(tokens: Tensor, text: str) -> None:
    with pytest.raises(DataError, match=text):
        TestTimeTrainer(tiny(), CONFIG).score(tokens)


def test_nan_weights_are_no_score() -> None:
    model = tiny()
    with torch.no_grad():
        model.embed.weight[5] = math.nan
    with pytest.raises(DataError, match="no finite score at position"):
        SlidingScorer(model, CONFIG).score(stream(100))


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_position_without_a_target_has_no_distribution(position: int) -> None:
    with pytest.raises(DataError, match="is no target"):
        SlidingScorer(tiny(), CONFIG).distribution(stream(100), position)


def test_digest_sees_every_bit_and_the_momentum() -> None:
    model = tiny()
    before = digest(model)
    assert digest(tiny()) == before
    with torch.no_grad():
        model.embed.weight[3, 5].copy_(torch.nextafter(model.embed.weight[3, 5], torch.tensor(9.0)))
    assert digest(model) != before
    momentum = [torch.zeros(3)]
    still = digest(model, momentum)
    momentum[0][1] = -0.0
    assert digest(model, momentum) != still
    pair = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        pair.weight.copy_(torch.tensor([[1.0, 2.0]]))
        one = digest(pair)
        pair.weight.copy_(torch.tensor([[2.0, 1.0]]))
    assert digest(pair) != one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
def test_a_gpu_s_checksum_sees_every_bit_and_place(dtype: torch.dtype) -> None:
    values = torch.tensor([1, 0, 0, 1, 1]).to(dtype)
    swapped = values[[1, 0, 2, 3, 4]]
    changed = values.clone()
    changed[4] = 0
    longer = torch.cat([values, torch.zeros(1, dtype=dtype)])
    assert len({int(checksums(each[None])) for each in (values, swapped, changed, longer)}) == 4


def test_rows_are_summed_up_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    whole = checksums(rows)
    assert whole.tolist() == [int(checksums(row[None])) for row in rows]
    monkeypatch.setattr(state, "_ELEMENTS", 21)  # seven columns at a time, the last one short
    assert torch.equal(checksums(rows), whole)
    assert torch.equal(checksums(rows.T.contiguous().T), whole), "whatever the memory looks like"
    assert summaries(rows) == [row.numpy().tobytes() for row in rows]
