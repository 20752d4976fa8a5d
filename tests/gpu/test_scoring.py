"""Scoring on a GPU: what is recorded as CUDA graphs gives the scores of what is launched one by one."""

import dataclasses

import pytest
import torch

from golf.model.attention import choose_backend
from golf.model.kernels.launch import kernels_available
from golf.model.weights import ModelSpec, build
from golf.params.audit import Audit
from golf.params.eval import Eval
from golf.params.model import Model
from golf.scoring.audit import audit_evaluation
from golf.scoring.bpb import SidecarBytes
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.evaluator import SlidingScorer, make_scorer
from golf.scoring.recorded import recordable

pytestmark = pytest.mark.gpu

CONFIG = Eval(
    seq_len=256, stride=128, batch_windows=8, ttt="lora", ttt_chunk_tokens=2048, lora_rank=8, lora_lr=0.001,
    lora_documents=6, lora_chunk_tokens=32, lora_chunk_growth=0.0,
)  # fmt: skip
DEVICE = torch.device("cuda")


def model_of(attention: str) -> torch.nn.Module:
    """Random weights whose scores depend on what was read and learnt."""
    shape = Model(
        num_layers=4, dim=256, num_heads=4, num_kv_heads=2, xsa_layers=4, document_mask=True, smear_kind="token",
        parallel="two_lane", parallel_from=2, attention_gate="sparse", bigram_buckets=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build(ModelSpec(shape, 1024), None, attention, DEVICE)
    model.graphs = True
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name.endswith(("output.weight", "down.weight")):
                param.normal_(std=0.05)
    return model


def stream(lengths: list[int]) -> torch.Tensor:
    """Documents of so many tokens, each of few words."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(2, 40, (length,), generator=generator) for length in lengths]
    for part in parts:
        part[0] = 1
    return torch.cat(parts)


def test_recorded_steps_learn_what_launched_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = model_of(choose_backend("auto", DEVICE)[0]), stream([1500, 300, 290, 280, 270, 260, 90, 80, 40, 5])
    if not recordable(model):
        pytest.skip("needs FlashAttention 3")
    found = DocumentScorer(model, CONFIG).score(tokens)
    unlearnt = DocumentScorer(model, CONFIG, adapts=False).score(tokens)
    monkeypatch.setattr("golf.scoring.document_scorer.recordable", lambda model: False)
    expected = DocumentScorer(model, CONFIG).score(tokens)
    learnt = float(expected.mean() - unlearnt.mean())
    assert learnt > 0.5, "there is something to learn"
    assert abs(float(found.mean() - expected.mean())) < 0.01 * learnt
    assert float((found - expected).abs().mean()) < 0.02


def test_a_later_phase_may_have_more_rows_and_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of six documents goes on behind its first piece, then four; graphs read weights that changed in place."""
    model, tokens = model_of(choose_backend("auto", DEVICE)[0]), stream([20] * 5 + [1500] + [300] * 6)
    if not recordable(model):
        pytest.skip("needs FlashAttention 3")
    config = dataclasses.replace(CONFIG, phase_tokens=1000)
    found = DocumentScorer(model, config).score(tokens)
    monkeypatch.setattr("golf.scoring.document_scorer.recordable", lambda model: False)
    assert float((found - DocumentScorer(model, config).score(tokens)).abs().mean()) < 0.02


def test_documents_read_with_kernels_score_what_they_do_without() -> None:
    if not kernels_available(DEVICE)[0]:
        pytest.skip("the kernels do not run here")
    model, tokens = model_of(choose_backend("auto", DEVICE)[0]), stream([700, 3, 1, 900, 40] * 5)
    expected = DocumentScorer(model, CONFIG, adapts=False).score(tokens)
    model.kernels = True
    found = DocumentScorer(model, CONFIG, adapts=False).score(tokens)
    assert abs(float(found.mean() - expected.mean())) < 1e-3
    assert float((found - expected).abs().mean()) < 0.02


@pytest.mark.parametrize("ttt", ["lora", "sgd", "none"])
def test_an_audit_in_fp32_passes_and_so_does_what_makes_the_score(ttt: str) -> None:
    if not kernels_available(DEVICE)[0]:
        pytest.skip("the kernels do not run here")
    exact, fast = model_of("sdpa"), model_of(choose_backend("auto", DEVICE)[0])
    exact.compute_dtype, exact.graphs, fast.kernels = torch.float32, False, True
    tokens, config = stream([700, 3, 300, 280, 40] * 2), dataclasses.replace(CONFIG, ttt=ttt, stride=256)
    report = audit_evaluation(
        exact,
        tokens,
        SidecarBytes(torch.ones(tokens.numel())),
        config,
        Audit(tokens=tokens.numel(), positions=2),
        as_run=lambda short: make_scorer(fast, short, traced=True),
    )
    assert report["passed"], report["checks"]


@pytest.mark.parametrize("stride", [128, 256])
def test_windows_with_kernels_score_what_they_do_without(stride: int) -> None:
    if not kernels_available(DEVICE)[0]:
        pytest.skip("the kernels do not run here")
    model, tokens = model_of(choose_backend("auto", DEVICE)[0]), stream([700, 3, 1, 2500, 40] * 12)
    config = dataclasses.replace(CONFIG, stride=stride, ttt="none")
    expected = SlidingScorer(model, config).score(tokens)
    model.kernels = True
    found = SlidingScorer(model, config).score(tokens)  # the first launched, the others recorded
    assert abs(float(found.mean() - expected.mean())) < 1e-3
    assert float((found - expected).abs().mean()) < 0.02
    assert torch.equal(found, SlidingScorer(model, config).score(tokens))
