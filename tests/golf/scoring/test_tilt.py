"""Hints from the prefix, the tilt towards them in closed form, and a scorer of both."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golf.params.audit import Audit
from golf.params.eval import Eval
from golf.scoring import hints
from golf.scoring.audit import CHECKS, audit, audit_evaluation
from golf.scoring.bpb import SidecarBytes
from golf.scoring.evaluator import SlidingScorer, evaluate, make_scorer
from golf.scoring.learner import Learner
from golf.scoring.lora import RowAdapters
from golf.scoring.protocol import Event
from golf.scoring.tilt import FIRST_BLOCK, KINDS, Tilt, blocks, log_sum
from golf.scoring.tilted import TILT_SHARE, TiltedScorer, interleave
from tests.golf.model.tiny import BOS, VOCAB, tiny

CONFIG = Eval(
    seq_len=32, stride=16, batch_windows=4, ttt_chunk_tokens=64, ttt_lr=0.02, lora_rank=3, lora_lr=0.01,
    lora_documents=4, lora_chunk_tokens=8, tilt=True,
)  # fmt: skip
FORMS: list[dict[str, Any]] = [
    {"ttt": "none"}, {"ttt": "sgd"}, {"ttt": "lora"}, {"ttt": "lora", "phase_tokens": 60},
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_stream(count: int, seed: int = 0) -> Tensor:
    tokens = torch.randint(2, VOCAB, (count,), generator=torch.Generator().manual_seed(seed))
    tokens[::41] = BOS
    return tokens


def repeating(count: int, period: int = 70) -> Tensor:
    """A text that says the same again and again, with some noise in it."""
    tokens = random_stream(period).repeat(-(-count // period))[:count]
    noise = torch.randint(2, VOCAB, (count // 15,), generator=torch.Generator().manual_seed(1))
    tokens[torch.randperm(count, generator=torch.Generator().manual_seed(2))[: count // 15]] = noise
    return tokens


def found_by_looking(tokens: list[int], position: int) -> tuple[int, int]:
    """The hint for a position and the number of its order, by the definition."""
    hint, order = 0, -1
    for number, length in enumerate(hints.ORDERS):
        for earlier in range(position - 1, length - 1, -1):
            if tokens[earlier - length : earlier] == tokens[position - length : position]:
                hint, order = tokens[earlier], number
                break
    return hint, order


@pytest.mark.parametrize("seed", range(12))
def test_a_hint_followed_the_longest_context_the_last_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 1 + seed % 4, rng.integers(1, 90)).tolist()
    cut = int(rng.integers(0, 90))
    found = hints.find(np.array(tokens))
    right = False
    for position in range(len(tokens)):
        hint, order = found_by_looking(tokens, position)
        assert (found.ids[position], found.kinds[position]) == (hint, 2 * order + right if order >= 0 else -1)
        right = order >= 0 and hint == tokens[position]
    prefix = hints.find(np.array(tokens[: cut + 1]))
    assert prefix.ids.tolist() == found.ids[: cut + 1].tolist()
    assert prefix.kinds.tolist() == found.kinds[: cut + 1].tolist()


def test_a_hint_does_not_know_its_own_token() -> None:
    tokens = repeating(300).numpy()
    before = hints.find(tokens)
    for position in (2, 90, 150, 299):
        changed = tokens.copy()
        changed[position:] = np.roll(changed[position:], 1) + 1
        after = hints.find(changed)
        assert np.array_equal(before.ids[: position + 1], after.ids[: position + 1])
        assert np.array_equal(before.kinds[: position + 1], after.kinds[: position + 1])


def test_blocks_share_out_the_targets_and_depend_on_nothing_behind_them() -> None:
    whole = list(blocks(10_000))
    assert whole[0] == (0, FIRST_BLOCK)
    assert [start for start, _ in whole[1:]] == [stop for _, stop in whole[:-1]]
    for count in (1, 31, 32, 33, 512, 600, 9_999):
        cut = list(blocks(count))
        assert cut == [(start, min(stop, count)) for start, stop in whole if start < count]
    assert len(list(blocks(50_000_000))) < 250


@pytest.mark.parametrize("beta", [-16.0, -1.0, 0.0, 0.3, 2.625, 16.0])
@pytest.mark.parametrize(("hint", "target"), [(0, 0), (3, 3), (3, 4), (9, 0)])
def test_the_closed_form_is_the_softmax_of_one_logit_more(hint: int, target: int, beta: float) -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(hint), dtype=torch.float64) * 4
    log_p = torch.log_softmax(logits, 0)
    logits[hint] += beta
    needed = torch.log_softmax(logits, 0)
    change = beta * (target == hint) - log_sum(log_p[hint].numpy(), np.array(beta))
    assert float(log_p[target]) + change == pytest.approx(float(needed[target]), abs=1e-9)


@pytest.mark.parametrize("log_q", [-np.inf, -800.0, -1e-300, 0.0])
def test_the_surest_and_the_least_likely_hints_leave_finite_scores(log_q: float) -> None:
    tilt, kinds, thought = Tilt(), np.zeros(40, dtype=np.int64), np.full(40, log_q)
    for right in (True, False):
        for _ in range(50):
            tilt.learn(thought, kinds, np.full(40, right))
        beta = tilt.beta_of(thought, kinds)
        assert np.isfinite(beta).all()
        assert np.isfinite(log_sum(thought, beta)).all()


def test_what_is_learnt_is_what_makes_the_hints_calibrated() -> None:
    rng = np.random.default_rng(0)
    log_q = np.log(rng.uniform(0.001, 0.9, 40_000))
    odds = log_q - np.log1p(-np.exp(log_q)) + 2.0 - 1.5 * (1 + log_q / 2)
    right = rng.random(40_000) < 1 / (1 + np.exp(-odds))
    kinds = np.full(40_000, 3)
    tilt = Tilt()
    for start, stop in blocks(40_000):
        tilt.learn(log_q[start:stop], kinds[start:stop], right[start:stop])
    assert tilt.offsets[3] == pytest.approx(2.0, abs=0.15)
    assert tilt.slopes[3] == pytest.approx(-1.5, abs=0.2)
    assert not tilt.offsets[np.arange(KINDS) != 3].any()


@pytest.mark.parametrize("form", FORMS[:3], ids=str)
def test_distributions_are_those_that_scored_and_a_prefix_scores_the_same(form: dict[str, Any]) -> None:
    model, tokens = tiny(), repeating(280)
    config = dataclasses.replace(CONFIG, **form)
    scorer = make_scorer(model, config)
    assert isinstance(scorer, TiltedScorer)
    scores = scorer.score(tokens)
    plain = make_scorer(model, dataclasses.replace(config, tilt=False)).score(tokens)
    torch.testing.assert_close(scorer.untilted, plain, rtol=0, atol=2e-5)
    assert float(scores.mean()) > float(plain.mean()) + 0.1, "the text repeats itself"
    hinted = hints.find(tokens.numpy()).kinds
    for position in (1, FIRST_BLOCK + 1, 150, 279):
        found = scorer.distribution(tokens, position)
        assert float(found.sum()) == pytest.approx(1.0, abs=1e-9)
        assert float(found[tokens[position]].log()) == pytest.approx(float(scores[position - 1]), abs=1e-5)
        if hinted[position] < 0:
            assert float(scores[position - 1]) == float(scorer.untilted[position - 1])
    for count in (2, 34, 150):
        torch.testing.assert_close(scorer.score(tokens[:count]), scores[: count - 1], rtol=0, atol=1e-4)


def test_windows_score_the_prefix_to_the_bit() -> None:
    model, tokens = tiny(), repeating(300)
    scorer = make_scorer(model, dataclasses.replace(CONFIG, ttt="sgd"))
    scores = scorer.score(tokens)
    for count in (33, 71, 150, 299):
        assert torch.equal(scorer.score(tokens[:count]), scores[: count - 1])


@pytest.mark.parametrize("form", [{"ttt": "sgd"}, {"ttt": "lora", "lora_documents": 1}])
def test_learning_leaves_time_for_the_tilt_behind_the_last_score(
    form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only hints, lessons and the tilt move: each takes as long as it may beside the others."""
    tokens, now = repeating(800), [0.0]

    def slowly(owner: Any, name: str, seconds: float) -> None:
        call = getattr(owner, name)

        def slow(*arguments: Any) -> Any:
            now[0] += seconds
            return call(*arguments)

        monkeypatch.setattr(owner, name, slow)

    slowly(hints, "find", 20.0)
    slowly(Learner, "learn", 10.0)
    slowly(RowAdapters, "learn", 1.0)
    slowly(Tilt, "learn", TILT_SHARE * 20.0 / len([*blocks(tokens.numel() - 1)]))
    monkeypatch.setattr("golf.scoring.tilted.time.monotonic", lambda: now[0])
    config = dataclasses.replace(CONFIG, **form)
    left = make_scorer(tiny(), config, deadline=60.0)
    left.score(tokens)
    assert 0 < left.adapted < left.parts(tokens) - 1, "there was too little time to learn from all"
    assert 49.0 < now[0] <= 60.0
    assert isinstance(left, TiltedScorer)
    assert left.base.deadline == 60.0, "the next score has as much"


def test_where_nothing_repeats_next_to_nothing_is_lost() -> None:
    tokens = random_stream(3000)
    scorer = make_scorer(tiny(), dataclasses.replace(CONFIG, ttt="none"))
    assert isinstance(scorer, TiltedScorer)
    lost = float((-scorer.score(tokens) + scorer.untilted).sum())
    assert lost < 10, "nats in all: two numbers are learnt for each kind of hint that there is"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_audit_passes_and_looks_at_the_tilt(form: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, lora_chunk_tokens=15, **form)
    sample = Audit(tokens=260, positions=1 if form["ttt"] == "lora" else 3)
    result = audit_evaluation(tiny(), repeating(400), SidecarBytes(torch.arange(400) % 5), config, sample, bos_id=BOS)
    assert result["passed"], result
    assert tuple(result["checks"]) == CHECKS
    updates = int(result["checks"]["score-first"]["evidence"].split()[0])
    assert updates >= len(list(blocks(259))) - 1


class OracleGate(TiltedScorer):
    """Tilts where that helps the true token."""

    def score(self, tokens: Tensor) -> Tensor:
        return torch.maximum(super().score(tokens), self.untilted)


def only_right_hints(tokens: np.ndarray, find: Any = hints.find) -> hints.Hints:
    """A gate that has read the target."""
    found = find(tokens)
    return found._replace(kinds=np.where(found.ids == tokens, found.kinds, -1))


def hints_from_all(tokens: np.ndarray) -> hints.Hints:
    """The token that most often follows the one before, counted over the whole stream."""
    table = np.zeros((VOCAB, VOCAB))
    np.add.at(table, (tokens[:-1], tokens[1:]), 1)
    ids = np.concatenate(([0], table.argmax(1)[tokens[:-1]]))
    return hints.Hints(ids, np.where(np.arange(tokens.size) > 0, 0, -1))


@pytest.mark.parametrize(
    ("kind", "find", "checks"),
    [
        (OracleGate, hints.find, {"normalised", "target"}),
        (TiltedScorer, only_right_hints, {"target"}),
        (TiltedScorer, hints_from_all, {"future", "truncation"}),
    ],
)
def test_a_tilt_that_reads_what_it_must_not_is_caught(
    monkeypatch: pytest.MonkeyPatch, kind: type[TiltedScorer], find: Any, checks: set[str]
) -> None:
    monkeypatch.setattr(hints, "find", find)
    model, config = tiny(), dataclasses.replace(CONFIG, ttt="none")
    report = audit(lambda: kind(SlidingScorer(model, config)), repeating(400), vocab_size=VOCAB, bos_id=BOS)
    assert checks & set(report.failed), report.findings
    assert not {"once", "coverage", "score-first"} & set(report.failed), "they keep an honest trace"


def test_the_trace_is_in_the_stream_s_order_and_keeps_a_fault_of_the_base() -> None:
    states = [(1, "a"), (33, "b"), (65, "c"), (97, "d")]
    base = [Event("score", 1, 40, "x"), Event("update", 1, 40, "y"), Event("score", 40, 100, "y")]
    merged = interleave(base, states)
    assert [(event.kind, event.start, event.stop) for event in merged] == [
        ("score", 1, 33), ("update", 1, 33), ("score", 33, 40), ("update", 1, 40),
        ("score", 40, 65), ("update", 33, 65), ("score", 65, 97), ("update", 65, 97), ("score", 97, 100),
    ]  # fmt: skip
    for before, after in pairwise(merged):
        assert after.kind == "update" or after.state == before.state
    faulty = interleave([base[0], base[1], dataclasses.replace(base[2], state="z")], states)
    assert any(after.kind == "score" and after.state != before.state
               for before, after in pairwise(faulty))  # fmt: skip
    assert interleave([], states) == []


def test_evaluate_tells_what_the_tilt_gained() -> None:
    tokens, counter = repeating(400), SidecarBytes(torch.ones(400))
    result = evaluate(tiny(), tokens, counter, dataclasses.replace(CONFIG, ttt="none"))
    assert result["final_bpb"] < result["untilted_bpb"] == result["sliding_bpb"] == result["plain_bpb"]
    assert set(result["seconds"]) == {"final", "roundtrip"}
    assert "untilted_bpb" not in evaluate(tiny(), tokens, counter, dataclasses.replace(CONFIG, tilt=False))
