import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from golf.params.audit import Audit
from golf.params.eval import Eval
from golf.runtime.errors import DataError
from golf.scoring import audit
from golf.scoring.audit import CHECKS, audit_evaluation, counts_digest, sample_start, shrink
from golf.scoring.bpb import SidecarBytes
from golf.scoring.evaluator import TestTimeTrainer
from golf.scoring.lora import RowAdapters
from golf.scoring.probes import choose, reorder, replace_before, replace_from, replace_one
from tests.cheats.honest import ChunkTTT
from tests.cheats.toy import VOCAB as TOY_VOCAB
from tests.cheats.toy import stream as toy_stream
from tests.golf.model.tiny import BOS, VOCAB, tiny

CONFIG = Eval(ttt="sgd", seq_len=32, stride=16, batch_windows=4, ttt_chunk_tokens=64, ttt_lr=0.02)


def stream(count: int = 400) -> Tensor:
    ids = torch.randint(2, VOCAB, (count,), generator=torch.Generator().manual_seed(3))
    ids[::45] = BOS
    return ids


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "kind", [{"ttt": "sgd"}, {"ttt": "none"}, {"ttt": "lora"}, {"ttt": "lora", "phase_tokens": 40}], ids=str
)
def test_the_evaluation_that_ships_passes(kind: dict[str, Any]) -> None:
    counter = SidecarBytes(torch.arange(400) % 5)
    config = dataclasses.replace(CONFIG, lora_chunk_tokens=15, lora_lr=0.02, **kind)
    settings = Audit(tokens=260, positions=2 if kind["ttt"] == "lora" else 6)
    result = audit_evaluation(tiny(), stream(), counter, config, settings, bos_id=BOS)
    assert result["passed"], result
    assert tuple(result["checks"]) == CHECKS
    assert result["sample"]["tokens"] == 260
    assert result["sample"]["chunk_tokens"] == 64
    assert result["sample"]["bytes_digest"] == counts_digest(torch.arange(1, 260) % 5)


def test_adapters_that_learn_from_other_rows_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = RowAdapters.learn

    def leak(self: RowAdapters, nll: Tensor) -> None:
        learn(self, nll)
        for value in self.values:
            value.data.copy_(value.data.mean(0, keepdim=True).expand_as(value))

    monkeypatch.setattr(RowAdapters, "learn", leak)
    config = dataclasses.replace(CONFIG, ttt="lora", lora_chunk_tokens=15, lora_lr=0.02)
    settings = Audit(tokens=260, positions=1)
    result = audit_evaluation(tiny(), stream(), SidecarBytes(torch.ones(400)), config, settings, bos_id=BOS)
    assert not result["checks"]["score-first"]["passed"]


def test_a_second_count_that_differs_fails_bytes() -> None:
    counter = SidecarBytes(torch.ones(400))
    settings = Audit(tokens=260, positions=1)
    result = audit_evaluation(
        tiny(), stream(), counter, CONFIG, settings, recount=lambda sample: torch.full((sample.numel() - 1,), 2)
    )
    assert [name for name, check in result["checks"].items() if not check["passed"]] == ["bytes"]


class PeekingTrainer(TestTimeTrainer):
    """Test-time training that takes the chunk before it scores it: the shipped scorer with two lines swapped."""

    def chunks(self, tokens: int) -> Any:
        for chunk in super().chunks(tokens):
            shifted = (chunk.learn_start + 64, chunk.learn_stop + 64) if chunk.learn_stop else (0, 0)
            fits = shifted[1] and shifted[1] <= tokens
            yield dataclasses.replace(
                chunk, learn_start=shifted[0] if fits else 0, learn_stop=shifted[1] if fits else 0
            )


def test_the_shipped_scorer_learning_one_chunk_early_fails() -> None:
    model = tiny()
    report = audit(lambda: PeekingTrainer(model, CONFIG), stream(), vocab_size=VOCAB, bos_id=BOS)
    assert {"score-first", "future"} <= set(report.failed)


def test_report_as_json_and_by_name() -> None:
    report = audit(ChunkTTT, toy_stream(), vocab_size=TOY_VOCAB)
    assert report.passed
    assert report.failed == ()
    assert report.to_dict()["checks"]["once"]["passed"] is True
    assert report["future"].evidence
    with pytest.raises(KeyError):
        report["speed"]
    assert all("\n" not in finding.evidence for finding in report.findings)


@pytest.mark.parametrize("count", [3, 4, 5, 10, 50])
def test_short_streams_are_audited_too(count: int) -> None:
    for positions in (1, 2, 6):
        assert audit(ChunkTTT, toy_stream()[:count], vocab_size=TOY_VOCAB, positions=positions).passed


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "positions"),
    [
        (torch.tensor([1, 2]), 16, 6),
        (torch.tensor([[1, 2, 3]]), 16, 6),
        (torch.tensor([1, 2, 3]), 1, 6),
        (torch.tensor([1, 2, 3]), 16, 0),
        (torch.tensor([1, 2, 16]), 16, 6),
        (torch.tensor([1, -2, 3]), 16, 6),
    ],
)
def test_streams_that_cannot_be_audited(tokens: Tensor, vocab_size: int, positions: int) -> None:
    with pytest.raises(DataError, match=r"needed|found"):
        audit(ChunkTTT, tokens, vocab_size=vocab_size, positions=positions)


class Raising(ChunkTTT):
    def score(self, tokens: Tensor) -> Tensor:
        raise ValueError("half-way")


class RaisingOnOthers(ChunkTTT):
    def score(self, tokens: Tensor) -> Tensor:
        if not torch.equal(tokens, toy_stream()):
            raise ValueError("not the stream\nI know")
        return super().score(tokens)


class Nan(ChunkTTT):
    def score(self, tokens: Tensor) -> Tensor:
        scores = super().score(tokens)
        scores[7] = float("nan")
        return scores


class Silent(ChunkTTT):
    @property
    def trace(self) -> tuple[()]:
        return ()


def test_a_scorer_that_raises_is_one_error() -> None:
    with pytest.raises(DataError, match=r"the scorer raised ValueError on the real stream: half-way"):
        audit(Raising, toy_stream(), vocab_size=TOY_VOCAB)


def test_a_scorer_that_knows_only_the_real_stream_fails() -> None:
    report = audit(RaisingOnOthers, toy_stream(), vocab_size=TOY_VOCAB)
    assert {"future", "truncation", "document-order"} <= set(report.failed)
    assert "not the stream I know" in report["future"].evidence


def test_nan_and_an_empty_trace_fail() -> None:
    assert "coverage" in audit(Nan, toy_stream(), vocab_size=TOY_VOCAB).failed
    assert {"coverage", "score-first"} <= set(audit(Silent, toy_stream(), vocab_size=TOY_VOCAB).failed)


def test_changed_streams_change_what_they_should() -> None:
    tokens = stream(100)
    generator = torch.Generator().manual_seed(0)
    one = replace_one(tokens, 40, VOCAB, generator)
    assert (one != tokens).nonzero().flatten().tolist() == [40]
    rest = replace_from(tokens, 40, VOCAB, generator)
    assert torch.equal(rest[:40], tokens[:40])
    assert rest[40] != tokens[40]
    before = replace_before(tokens, 90, BOS, VOCAB, generator)
    assert torch.equal(before[90:], tokens[90:])
    assert torch.equal(before == BOS, tokens == BOS)
    assert int((before != tokens).sum()) > 80
    few = torch.tensor([BOS, BOS + 1, 0] * 30)  # of which many draw a BOS: another token takes its place
    before = replace_before(few, 90, BOS, BOS + 3, generator)
    assert torch.equal((before == few).nonzero(), (few == BOS).nonzero())
    assert torch.equal(before == BOS, few == BOS)
    for start in range(1, 99):
        other = reorder(tokens, start, BOS, generator)
        assert other.shape == tokens.shape
        assert torch.equal(other[:start], tokens[:start])
        assert start > 96 or not torch.equal(other, tokens)


def test_probes_take_edges_first() -> None:
    trainer = TestTimeTrainer(tiny(), CONFIG)
    tokens = stream()
    trainer.score(tokens)
    probe = choose(tokens, trainer.trace, bos_id=BOS, positions=6, generator=torch.Generator().manual_seed(0))
    edges = {event.stop for event in trainer.trace if event.kind == "update"}
    assert tokens.numel() - 1 in probe.targets
    assert edges & set(probe.targets)
    assert {edge - 1 for edge in edges} & set(probe.cuts)
    assert any(int(tokens[place]) == BOS for place in probe.targets)
    assert int(tokens[probe.document]) == BOS
    assert len(set(probe.targets)) == 6


def test_the_sample_begins_where_documents_are_short() -> None:
    tokens = torch.full((1000,), 5)
    assert sample_start(tokens, 100, BOS) == 0
    tokens[[0, 500, 520, 540, 560]] = BOS
    assert sample_start(tokens, 100, BOS) == 500
    assert sample_start(tokens, 600, BOS) == 0
    assert sample_start(tokens, 5000, BOS) == 0
    tokens[[990, 992, 994, 996]] = BOS
    assert sample_start(tokens, 100, BOS) == 500
    tokens[[520, 540, 560]] = 5
    assert sample_start(tokens, 300, BOS) + 300 <= 1000


@pytest.mark.parametrize("tokens", [64, 100, 6144, 1_000_000])
def test_shrunk_chunks_fit_the_sample(tokens: int) -> None:
    for config in (Eval(), Eval(ttt="sgd", seq_len=2048, stride=64, ttt_chunk_tokens=32_768), CONFIG):
        short = shrink(config, tokens)
        assert short.ttt_chunk_tokens <= max(tokens / 4 + 1, 2)
        assert short.ttt_chunk_tokens <= config.ttt_chunk_tokens
        assert short.seq_len <= config.seq_len
