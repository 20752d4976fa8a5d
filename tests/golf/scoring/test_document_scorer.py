"""Documents scored from their beginning, alone and while they are learnt from."""

import dataclasses
import time

import pytest
import torch
from torch import Tensor

from golf.model.attention import Documents
from golf.model.transformer import Transformer
from golf.params.eval import Eval
from golf.runtime.errors import ConfigError, DataError
from golf.scoring import document_scorer
from golf.scoring.document_scorer import DocumentScorer, Pace
from golf.scoring.documents import split, targets
from golf.scoring.lora import RowAdapters, kind
from tests.golf.model.tiny import BOS, EVERYTHING, VOCAB, tiny

CONFIG = Eval(
    seq_len=32, stride=32, ttt="lora", ttt_chunk_tokens=64, ttt_lr=0.02, lora_rank=3, lora_lr=0.02, lora_documents=4,
    lora_chunk_tokens=8,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def stream(lengths: list[int], seed: int = 0) -> Tensor:
    """Documents of so many tokens, BOS among them, each with few words of its own: there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for length in lengths:
        words = torch.randint(2, VOCAB, (5,), generator=generator)
        parts.append(words[torch.randint(0, 5, (length,), generator=generator)])
        parts[-1][0] = BOS
    return torch.cat(parts)


LENGTHS = [20, 1, 55, 33, 2, 90, 32, 40, 7]


@pytest.mark.parametrize("overrides", [{}, EVERYTHING, {"document_mask": True}], ids=["plain", "everything", "masked"])
def test_without_learning_each_score_is_the_model_s_on_the_document(overrides: dict[str, object]) -> None:
    model, tokens = tiny(**overrides).eval(), stream(LENGTHS)
    scores = DocumentScorer(model, CONFIG, adapts=False).score(tokens)
    model.config = dataclasses.replace(model.config, document_mask=True)  # so that it is told of the window
    for start, stop in split(tokens, BOS):
        whole = Documents(torch.tensor([0, stop - start], dtype=torch.int32), stop - start, CONFIG.seq_len)
        with torch.no_grad():
            logits = model(tokens[None, start:stop], documents=whole).double()
        needed = torch.log_softmax(logits, -1)[0].gather(-1, tokens[start + 1 : stop + 1, None])[:, 0]
        torch.testing.assert_close(scores[start:stop], needed, rtol=0, atol=2e-5)


def test_learning_pays_and_leaves_the_model_alone() -> None:
    model, tokens = tiny(), stream([120] * 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = DocumentScorer(model, CONFIG, adapts=False).score(tokens)
    scorer = DocumentScorer(model, CONFIG)
    learnt = scorer.score(tokens)
    assert float(learnt.mean()) > float(plain.mean()) + 0.3
    assert scorer.adapted == scorer.parts(tokens) == 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    first_piece = torch.cat([torch.arange(start, start + 8) for start, _ in split(tokens, BOS)])
    torch.testing.assert_close(learnt[first_piece], plain[first_piece], rtol=0, atol=2e-5)


def test_all_weights_learn_between_phases() -> None:
    model, tokens = tiny(), stream([60] * 6)
    alone = DocumentScorer(model, CONFIG).score(tokens)
    phased = DocumentScorer(model, dataclasses.replace(CONFIG, phase_tokens=120)).score(tokens)
    torch.testing.assert_close(phased[:120], alone[:120], rtol=0, atol=2e-5)
    assert float((phased - alone)[120:].abs().min()) > 0


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_document_scores_the_same_among_any_others(rows: int) -> None:
    model, tokens = tiny(), stream(LENGTHS)
    whole = DocumentScorer(model, CONFIG).score(tokens)
    other = DocumentScorer(model, dataclasses.replace(CONFIG, lora_documents=rows)).score(tokens)
    torch.testing.assert_close(other, whole, rtol=0, atol=1e-4)
    start, stop = split(tokens, BOS)[5]
    alone = DocumentScorer(model, CONFIG).score(tokens[start : stop + 1])
    torch.testing.assert_close(alone, whole[start:stop], rtol=0, atol=1e-4)


@pytest.mark.parametrize("phase_tokens", [0, 50])
def test_distributions_are_those_that_scored(phase_tokens: int) -> None:
    model, tokens = tiny(), stream(LENGTHS)
    scorer = DocumentScorer(model, dataclasses.replace(CONFIG, phase_tokens=phase_tokens))
    scores = scorer.score(tokens)
    for position in (1, 20, 77, 150, tokens.numel() - 1):
        found = scorer.distribution(tokens, position)
        assert found.shape == (VOCAB,)
        assert float(found.sum()) == pytest.approx(1.0, abs=1e-9)
        assert float(found[tokens[position]].log()) == pytest.approx(float(scores[position - 1]), abs=1e-6)


def test_past_the_deadline_nothing_is_learnt_and_all_is_scored() -> None:
    model, tokens = tiny(), stream(LENGTHS)
    scorer = DocumentScorer(model, dataclasses.replace(CONFIG, phase_tokens=50), deadline=time.monotonic() - 1)
    plain = DocumentScorer(model, CONFIG, adapts=False).score(tokens)
    torch.testing.assert_close(scorer.score(tokens), plain, rtol=0, atol=2e-5)
    assert scorer.adapted == 0


def test_learning_ends_while_there_is_time_to_score_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, now = tiny(), stream([40] * 40), [0.0]
    score = DocumentScorer._score_group

    def slow(self: DocumentScorer, *arguments: object) -> None:
        now[0] += 10.0 if arguments[-1] else 2.0
        score(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DocumentScorer, "_score_group", slow)
    monkeypatch.setattr("golf.scoring.document_scorer.time.monotonic", lambda: now[0])
    scorer = DocumentScorer(model, CONFIG, deadline=60.0)
    scorer.score(tokens)
    assert 0 < scorer.adapted < 40
    assert now[0] <= 60.0


@pytest.mark.parametrize(("deadline", "lessons"), [(100.0, 0), (110.0, 1), (1000.0, 3)])
def test_a_phase_is_learnt_from_while_there_is_time_for_the_lesson_and_the_rest(
    monkeypatch: pytest.MonkeyPatch, deadline: float, lessons: int
) -> None:
    """Four phases of 400 targets: 30 s with learning and 15 s without, and 30 s for a lesson."""
    model, tokens, now, learnt = tiny(), stream([40] * 40), [0.0], []
    score, learn = DocumentScorer._score_group, document_scorer.learn_phase

    def slow_scoring(self: DocumentScorer, *arguments: object) -> None:
        now[0] += (30.0 if arguments[-1] else 15.0) * targets(arguments[1]) / 400  # type: ignore[arg-type]
        score(self, *arguments)  # type: ignore[arg-type]

    def slow_lesson(*arguments: object) -> None:
        now[0] += 30.0
        learnt.append(now[0])
        learn(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DocumentScorer, "_score_group", slow_scoring)
    monkeypatch.setattr(document_scorer, "learn_phase", slow_lesson)
    monkeypatch.setattr("golf.scoring.document_scorer.time.monotonic", lambda: now[0])
    monkeypatch.setattr("golf.scoring.learner.time.monotonic", lambda: now[0])
    DocumentScorer(model, dataclasses.replace(CONFIG, phase_tokens=400), deadline=deadline).score(tokens)
    assert now[0] <= deadline
    assert len(learnt) == lessons


def test_before_anything_was_scored_nothing_is_known_of_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("golf.scoring.document_scorer.time.monotonic", lambda: next(ticks))
    scorer = DocumentScorer(tiny(), CONFIG, deadline=100.0)
    scorer.score(stream([40] * 8))
    assert scorer.adapted == 8
    pace = Pace()
    assert pace.seconds(1e6) == 0.0
    pace.done = 10
    assert pace.seconds(1e6) > 1e4


def test_an_untraced_run_has_no_trace() -> None:
    scorer = DocumentScorer(tiny(), CONFIG)
    scorer.score(stream(LENGTHS))
    assert not scorer.trace


def test_only_the_named_matrices_are_adapted() -> None:
    model = tiny(loop_first=1, loop_last=2, loop_passes=2)
    config = dataclasses.replace(CONFIG, lora_targets=("query", "head"))
    adapters = RowAdapters(model, config, 2)
    assert {kind(name) for name in adapters.shapes} == {"query", "head"}
    assert "blocks.1.attention.query@1" in adapters.shapes


@pytest.mark.parametrize("tokens", [[BOS], [BOS, VOCAB]])
def test_what_cannot_be_scored_is_refused(tokens: list[int]) -> None:
    with pytest.raises(DataError):
        DocumentScorer(tiny(), CONFIG).score(torch.tensor(tokens))


def test_scores_that_are_not_finite_are_refused() -> None:
    model = tiny()
    broken(model)
    with pytest.raises(DataError, match="no finite score at position"):
        DocumentScorer(model, CONFIG).score(stream(LENGTHS))


def broken(model: Transformer) -> None:
    with torch.no_grad():
        model.embed.weight[7] = float("nan")


@pytest.mark.parametrize(
    ("key", "value"),
    [("ttt", "slot"), ("lora_rank", 0), ("lora_alpha", 0.0), ("lora_targets", ("gate",)), ("lora_targets", ()),
     ("lora_lr", 0.0), ("lora_weight_decay", -1.0), ("lora_documents", 0), ("lora_chunk_tokens", 17),
     ("lora_chunk_growth", -0.1), ("phase_tokens", -1)],
)  # fmt: skip
def test_what_eval_refuses(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"eval.{key}: found"):
        dataclasses.replace(CONFIG, **{key: value})  # type: ignore[arg-type]
