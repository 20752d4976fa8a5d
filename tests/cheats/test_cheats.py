import re
import time
from pathlib import Path

import pytest
import torch

from golf.bundle.restore import restored_bytes
from golf.data.bytecount import ByteTable
from golf.data.caseops import MARKERS
from golf.data.sidecar import TokenBytes
from golf.scoring.audit import CHECKS, audit
from golf.scoring.protocol import AuditReport
from tests.cheats import cheats as illegal
from tests.cheats import honest
from tests.cheats.toy import BOS, VOCAB, OnDisk, Toy, stream
from tests.pieces import Pieces

SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnDisk, "path", tmp_path / "left.npy", raising=False)


def run(scorer: type[Toy], seed: int, independent: bool = False) -> AuditReport:
    if scorer is illegal.CarriedOver:
        illegal.CarriedOver.memory[:] = 0
    if issubclass(scorer, OnDisk):
        scorer.leave(stream(seed))
        time.sleep(0.05)  # it is there before the run, also by the clock of the file system
    return audit(
        scorer, stream(seed), vocab_size=VOCAB, bos_id=BOS, seed=seed, positions=6, independent_documents=independent
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scorer", honest.TWINS)
def test_honest_twin_passes(scorer: type[Toy], seed: int) -> None:
    report = run(scorer, seed, scorer in honest.INDEPENDENT)
    assert report.passed, [finding for finding in report.findings if not finding.passed]
    assert tuple(finding.name for finding in report.findings) == CHECKS


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("scorer", "check"), illegal.CHEATS.items())
def test_cheat_is_caught_by_the_check_that_names_it(scorer: type[Toy], check: str, seed: int) -> None:
    report = run(scorer, seed, scorer in illegal.INDEPENDENT)
    assert check in report.failed, report.findings


@pytest.mark.parametrize("scorer", illegal.SILENT)
def test_trace_of_a_silent_cheat_looks_honest(scorer: type[Toy]) -> None:
    report = run(scorer, 0)
    assert not {"once", "coverage", "score-first"} & set(report.failed)


def test_without_the_claim_of_independence_context_may_cross_documents() -> None:
    assert run(illegal.BosLeak, 0).passed
    assert "document-order" in run(honest.ChunkTTT, 0, independent=True).failed


def doubled_space_table() -> tuple[ByteTable, ByteTable]:
    """The right table, and one that counts the space of a piece in it and once more when it is scored."""
    leading = torch.arange(VOCAB) % 3 == 2
    boundary = torch.arange(VOCAB) < 2
    base = torch.where(boundary, 0, 1 + torch.arange(VOCAB) % 4).to(torch.int16)
    return ByteTable(base, leading, boundary), ByteTable(base + leading.to(torch.int16), leading, boundary)


def test_wrong_byte_table_is_caught_by_bytes_alone() -> None:
    right, wrong = doubled_space_table()
    tokens = stream()
    report = audit(
        honest.ChunkTTT, tokens, vocab_size=VOCAB, byte_counts=wrong.count(tokens), recount=right.count(tokens)
    )
    assert report.failed == ("bytes",)
    assert "recounted" in report["bytes"].evidence
    honest_report = audit(
        honest.ChunkTTT, tokens, vocab_size=VOCAB, byte_counts=right.count(tokens), recount=right.count(tokens)
    )
    assert honest_report.passed


def test_markers_counted_as_text_are_caught_by_bytes_alone() -> None:
    """Transformed text that is scored without its sidecar: three bytes for each marker make the text longer."""
    vocabulary = Pieces(*MARKERS, "the", "▁launch", "nasa", "▁of", "▁b", "é", "e", "▁")
    tokens = stream()
    right = torch.tensor(restored_bytes(vocabulary, tokens.tolist())[1:])
    sidecar = torch.from_numpy(TokenBytes(vocabulary).count(tokens.numpy())[1:])
    report = audit(honest.ChunkTTT, tokens, vocab_size=VOCAB, byte_counts=sidecar, recount=right)
    assert report.passed, report["bytes"]
    without = ByteTable.from_processor(vocabulary).count(tokens)
    report = audit(honest.ChunkTTT, tokens, vocab_size=VOCAB, byte_counts=without, recount=right)
    assert report.failed == ("bytes",)
    assert int(without.sum()) > int(right.sum())
    assert "recounted" in report["bytes"].evidence


class Rounded(honest.ChunkTTT):
    """Computes in less precision than the one that is audited: a twin."""

    bias = 0.0

    def score(self, tokens: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tokens.numel() - 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return super().score(tokens) + 0.02 * noise + self.bias


class Better(Rounded):
    """Worth a little more where it is scored than where it is audited."""

    bias = 0.005


class Stops(honest.ChunkTTT):
    def score(self, tokens: torch.Tensor) -> torch.Tensor:
        raise ValueError("no more")


@pytest.mark.parametrize(
    ("scorer", "evidence"),
    [
        (Rounded, ""),
        (honest.ChunkTTT, ""),
        (Better, r"\+0\.00\d+ nats a token better than audited, tolerance 0\.00\d+; moved by 0\.0"),
        (illegal.TargetInKey, r"\+0\.1\d* nats a token better"),
        (illegal.SkippedTail, r"\d+ scores, audited 399"),
        (Stops, "the scorer raised ValueError: no more"),
    ],
)
def test_what_makes_the_score_may_differ_by_rounding_alone(scorer: type[Toy], evidence: str) -> None:
    report = audit(honest.ChunkTTT, stream(), vocab_size=VOCAB, bos_id=BOS, as_run=scorer)
    assert report.failed == (("as-run",) if evidence else ())
    assert re.search(evidence, report["as-run"].evidence)


def test_every_check_fails_some_cheat() -> None:
    assert {*illegal.CHEATS.values(), "bytes", "as-run"} == set(CHECKS)
