"""What is recorded for a GPU gives the scores of what is launched one by one; here a graph does its work again."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.attention import attend
from golf.model.transformer import Transformer
from golf.params.audit import Audit
from golf.params.eval import Eval
from golf.scoring import recorded
from golf.scoring.audit import audit_evaluation
from golf.scoring.bpb import SidecarBytes
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.evaluator import make_scorer
from golf.scoring.packed import score_pack
from golf.scoring.recorded import RecordedForward
from tests.golf.model.tiny import BOS, EVERYTHING, VOCAB, tiny

CONFIG = Eval(
    seq_len=32, stride=32, ttt="lora", ttt_chunk_tokens=64, ttt_lr=0.02, lora_rank=3, lora_lr=0.01, lora_documents=4,
    lora_chunk_tokens=8, lora_chunk_growth=0.0,
)  # fmt: skip


class Replays:
    """In place of a CUDA graph: what was recorded is done again."""

    made: ClassVar[list["Replays"]] = []

    def __init__(self, work: Callable[[], object], others: Iterable[object] = ()) -> None:
        work()
        self.work, self.count = work, 0
        self.made.append(self)

    def replay(self) -> None:
        self.work()
        self.count += 1


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Replays]:
    """All that are recorded in a test."""
    torch.set_num_threads(1)
    monkeypatch.setattr(recorded, "record", Replays)
    monkeypatch.setattr(Replays, "made", [])
    return Replays.made


def stream(lengths: list[int]) -> Tensor:
    """Documents of so many tokens, each with few words of its own."""
    generator, parts = torch.Generator().manual_seed(0), []
    for length in lengths:
        words = torch.randint(2, VOCAB, (5,), generator=generator)
        parts.append(words[torch.randint(0, 5, (length,), generator=generator)])
        parts[-1][0] = BOS
    return torch.cat(parts)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_documents": 2},
        {"phase_tokens": 100},
        {"phase_tokens": 100, "order": "length"},
        {"seq_len": 256, "stride": 256, "ttt_chunk_tokens": 256},
    ],
    ids=str,
)
def test_steps_learn_the_same(monkeypatch: pytest.MonkeyPatch, graphs: list[Replays], changes: dict[str, Any]) -> None:
    """Documents that ended are read on beside the others, windows begin anew, groups come in other sizes."""
    monkeypatch.setattr("golf.scoring.reader.REPAYS", 3)
    model, tokens = tiny(**EVERYTHING), stream([20, 1, 55, 33, 2, 90, 32, 40, 7, 200])
    config = dataclasses.replace(CONFIG, **changes)
    expected = DocumentScorer(model, config).score(tokens)
    assert not graphs
    monkeypatch.setattr("golf.scoring.document_scorer.recordable", lambda model: True)
    found = DocumentScorer(model, config).score(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # AdamW takes rounding far
    assert sum(graph.count for graph in graphs) > len(graphs), "used again"


def test_more_documents_may_go_on_than_in_the_first_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first phase has one document of several pieces, the next one four."""
    monkeypatch.setattr("golf.scoring.reader.REPAYS", 3)
    model, tokens = tiny(**EVERYTHING), stream([3, 3, 3, 92, 30, 31, 30, 33, 7])
    config = dataclasses.replace(CONFIG, phase_tokens=100)
    expected = DocumentScorer(model, config).score(tokens)
    monkeypatch.setattr("golf.scoring.document_scorer.recordable", lambda model: True)
    torch.testing.assert_close(DocumentScorer(model, config).score(tokens), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cut", [25, 66, 156, 294, 403])
def test_steps_know_nothing_of_what_stands_behind(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """To the bit, though rows whose documents ended are read on into the next ones."""
    monkeypatch.setattr("golf.scoring.reader.REPAYS", 3)
    monkeypatch.setattr("golf.scoring.document_scorer.recordable", lambda model: True)
    model, tokens = tiny(**EVERYTHING), stream([20, 1, 55, 33, 2, 90, 32, 40, 7, 200])
    other = tokens.clone()
    other[cut:] = torch.where(other[cut:] == BOS, BOS, 2 + (other[cut:] + 1) % (VOCAB - 2))
    found, changed = (DocumentScorer(model, CONFIG).score(each) for each in (tokens, other))
    assert torch.equal(found[: cut - 1], changed[: cut - 1])
    assert not torch.equal(found[cut - 1 :], changed[cut - 1 :])


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, **given: Any) -> Tensor:
    """As FlashAttention 3 has it: of a row's keys the first ``seqused_k``, or the window's of these, before a query."""
    firsts, starts, used = (
        given["cu_seqlens_q"],
        given["cu_seqlens_k"],
        given.get("seqused_k", given["cu_seqlens_k"].diff()),
    )
    left, right = given.get("window_size", (given["max_seqlen_k"], 0))
    assert causal
    assert left >= right == 0
    assert firsts.dtype == starts.dtype == used.dtype == torch.int32
    rows = []
    for (first, stop), start, keys in zip(pairwise(firsts.tolist()), starts.tolist(), used.tolist(), strict=False):
        if stop > first:
            mask = torch.ones(stop - first, keys, dtype=torch.bool).tril(keys - stop + first)
            mask = mask.triu(keys - stop + first - left)
            row = (x.transpose(0, 1)[None] for x in (q[first:stop], k[start : start + keys], v[start : start + keys]))
            rows.append(F.scaled_dot_product_attention(*row, mask, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(rows)


def with_flash_attention(monkeypatch: pytest.MonkeyPatch, plain: Transformer) -> Transformer:
    """``plain``, with attention that is told where documents begin."""
    module: Any = type(torch)("flash_attn_interface")
    module.flash_attn_func, module.flash_attn_varlen_func = lambda q, k, v, causal: attend(q, k, v), flash_attention
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    model = Transformer(plain.config, VOCAB, BOS, "fa3")
    model.load_state_dict(plain.state_dict())
    return model


@pytest.mark.parametrize("tilt", [False, True])
def test_flash_attention_is_told_how_many_keys_there_are(
    monkeypatch: pytest.MonkeyPatch, graphs: list[Replays], tilt: bool
) -> None:
    """Nothing here says that a step can be recorded but the model's own attention."""
    monkeypatch.setattr("golf.scoring.reader.REPAYS", 3)
    plain, tokens = tiny(**EVERYTHING), stream([20, 1, 55, 33, 2, 90])
    model, config = with_flash_attention(monkeypatch, plain), dataclasses.replace(CONFIG, tilt=tilt)
    model.graphs = True
    expected = make_scorer(plain, config).score(tokens)
    torch.testing.assert_close(make_scorer(model, config).score(tokens), expected, rtol=0, atol=1e-4)
    assert sum(graph.count for graph in graphs) > 2


@pytest.mark.parametrize("changes", [{}, {"tilt": True}, {"batch_windows": 1}, {"seq_len": 8, "stride": 8}], ids=str)
@pytest.mark.parametrize("graphs_too", [False, True])
def test_documents_many_in_a_row_score_what_they_do_apart(
    monkeypatch: pytest.MonkeyPatch, graphs: list[Replays], changes: dict[str, Any], graphs_too: bool
) -> None:
    """The first without a BOS, some longer than a window, with one window a row some longer than that."""
    monkeypatch.setattr(recorded, "EAGER", 1)
    plain, tokens = tiny(**EVERYTHING | {"document_mask": True}), stream([20, 1, 55, 33, 2, 90, 32, 40, 7, 31] * 3)[4:]
    config = dataclasses.replace(CONFIG, **{"batch_windows": 4, "lora_chunk_tokens": 4, **changes})
    model = with_flash_attention(monkeypatch, plain)
    rows: list[int] = []
    monkeypatch.setattr(
        "golf.scoring.document_scorer.score_pack", lambda *given: rows.append(len(given[2])) or score_pack(*given)
    )
    if graphs_too:
        monkeypatch.setattr("golf.scoring.document_scorer.forward_of", RecordedForward)
    found, expected = DocumentScorer(model, config, adapts=False), DocumentScorer(plain, config, adapts=False)
    hints = tokens.roll(3)
    for ours, theirs in zip(found.score_beside(tokens, hints), expected.score_beside(tokens, hints), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.score(tokens), expected.score(tokens), rtol=0, atol=1e-4)
    assert max(rows) > 4
    assert bool(graphs) == (graphs_too and len(rows) > 8)
    late = DocumentScorer(model, config, deadline=time.monotonic() - 1)
    torch.testing.assert_close(late.score(tokens), expected.score(tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize("phase_tokens", [0, 40])
def test_steps_pass_the_audit(monkeypatch: pytest.MonkeyPatch, graphs: list[Replays], phase_tokens: int) -> None:
    """Those with a trace, too."""
    monkeypatch.setattr("golf.scoring.reader.REPAYS", 3)
    monkeypatch.setattr("golf.scoring.document_scorer.recordable", lambda model: True)
    config = dataclasses.replace(CONFIG, phase_tokens=phase_tokens)
    tokens = stream([45] * 6 + [1])
    settings = Audit(tokens=tokens.numel(), positions=2)
    result = audit_evaluation(tiny(), tokens, SidecarBytes(torch.ones(tokens.numel())), config, settings, bos_id=BOS)
    assert result["passed"], result
    assert sum(graph.count for graph in graphs) > 20


@pytest.mark.parametrize("ttt", ["none", "sgd"])
@pytest.mark.parametrize("masked", [True, False])
def test_windows_score_the_same(monkeypatch: pytest.MonkeyPatch, graphs: list[Replays], ttt: str, masked: bool) -> None:
    monkeypatch.setattr(recorded, "EAGER", 1)
    monkeypatch.setattr(recorded, "ENTRIES", 8)
    model, tokens = tiny(**EVERYTHING | {"document_mask": masked}), stream([20, 1, 55, 33, 2, 90, 32, 40, 7, 200])
    config = dataclasses.replace(CONFIG, ttt=ttt, stride=8, batch_windows=4)
    expected = make_scorer(model, config).score(tokens)
    for module in ("evaluator", "learner"):
        monkeypatch.setattr(f"golf.scoring.{module}.forward_of", RecordedForward)
    scorer = make_scorer(model, config)
    torch.testing.assert_close(scorer.score(tokens), expected, rtol=0, atol=1e-5)
    assert len(graphs) == (2 if masked else 1), "one for each room for documents"
    assert sum(graph.count for graph in graphs) > 3
    assert scorer.distribution(tokens, 50).sum() == pytest.approx(1.0)
