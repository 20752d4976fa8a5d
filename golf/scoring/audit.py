"""Is a score legal? Ten checks on any scorer, from outside.

The rules are the challenge's, written down in docs/rules.md. A scorer is run again and again on streams that are
changed where it must not look; a control run without any change says how much noise to allow for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from golf.params.audit import Audit
from golf.params.eval import Eval
from golf.runtime.errors import DataError
from golf.scoring import checks, probes
from golf.scoring.evaluator import make_scorer
from golf.scoring.protocol import AuditReport, ByteCounter, Finding, Scorer
from golf.scoring.subject import Subject

CHECKS = (
    "future",
    "target",
    "truncation",
    "document-order",
    "normalised",
    "score-first",
    "once",
    "coverage",
    "bytes",
    "as-run",
)
CHUNKS = 4  # of the sample: with fewer, hardly anything would be scored after an update
REGROUPED = 8  # times fewer documents side by side in every other run


def audit(
    make_scorer: Callable[[], Scorer],
    tokens: Tensor,
    *,
    vocab_size: int,
    bos_id: int = 1,
    seed: int = 0,
    positions: int = 6,
    byte_counts: Tensor | None = None,
    recount: Tensor | None = None,
    independent_documents: bool = False,
    order: str = "file",
    loaded: bool = False,
    as_run: Callable[[], Scorer] | None = None,
) -> AuditReport:
    """Run every check of :data:`CHECKS`: eleven scoring passes at most and two distributions a position.

    Args:
        make_scorer: gives a fresh scorer at each call.
        tokens: (T,) integers, three or more; several chunks and documents make the best sample.
        vocab_size: length of a distribution.
        bos_id: the token that begins a document.
        seed: of the random positions and replacements.
        positions: positions probed a check; chunk and document edges come first.
        byte_counts: (T-1,) bytes of each target as the evaluation counts them.
        recount: (T-1,) the same, counted independently.
        independent_documents: the scorer claims that no document influences another; ``document-order`` then also
            changes the documents before one.
        order: in which the scorer takes documents, by its own word; ``document-order`` fails for all but ``file``.
        loaded: ``make_scorer`` has all that it needs in memory: ``score-first`` then fails for a file that it reads,
            as it always does for one that is read by ``score`` or ``distribution``.
        as_run: gives the scorer that makes the score, where that is one of less precision than ``make_scorer``'s.

    Returns:
        one finding a check, in that order.

    Raises:
        DataError: the stream is too short or holds tokens outside the vocabulary, or the scorer raised on it.
    """
    tokens = tokens.to("cpu", torch.int64)
    if tokens.dim() != 1 or tokens.numel() < 3 or vocab_size < 2 or positions < 1:
        raise DataError(
            f"found a stream of shape {tuple(tokens.shape)}, {vocab_size} token ids and {positions} positions; "
            "needed 3 tokens, 2 ids and 1 position, or more"
        )
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise DataError(f"tokens of {int(tokens.min())} to {int(tokens.max())}, needed 0 to {vocab_size - 1}")
    generator = torch.Generator().manual_seed(seed)
    subject = Subject(make_scorer, tokens, vocab_size, bos_id, generator, loaded=loaded)
    subject.measure()
    probe = probes.choose(tokens, subject.trace, bos_id=bos_id, positions=positions, generator=generator)
    outcomes = {
        "normalised": checks.normalised(subject, probe),  # first: it asks for the distributions of the others
        "future": checks.future(subject, probe),  # then this one: it scores other tokens where `target` looks
        "target": checks.target(subject, probe),
        "truncation": checks.truncation(subject, probe),
        "document-order": checks.document_order(subject, probe, independent_documents, order),
        "as-run": checks.as_run(subject, as_run),
        "score-first": checks.score_first(subject),  # behind all that score: it names what they read
        "once": checks.once(subject),
        "coverage": checks.coverage(subject),
        "bytes": checks.byte_counts(tokens, byte_counts, recount),
    }
    return AuditReport(tuple(Finding(name, *outcomes[name]) for name in CHECKS))


def audit_evaluation(
    model: nn.Module,
    tokens: Tensor,
    byte_table: ByteCounter,
    config: Eval,
    settings: Audit,
    *,
    bos_id: int = 1,
    recount: Callable[[Tensor], Tensor] | None = None,
    scorer: Callable[[Eval], Scorer] | None = None,
    as_run: Callable[[Eval], Scorer] | None = None,
) -> dict[str, Any]:
    """Audit the evaluation that ships, on a sample of the validation split.

    The sample is scored by the same scorers as :func:`golf.scoring.evaluator.evaluate` uses, without a deadline, and
    with chunks so short that four fit into it (windows too, if need be): what happens at a chunk's edge is the same.
    Every other scorer reads an eighth as many documents side by side. A changed stream changes which documents stand
    side by side, and so the rounding, which learning enlarges: the control run then shows how much of that to allow
    for, and a score that depended on the other rows would show in it too.

    Args:
        model: the artifact's model.
        tokens: the validation split.
        byte_table: bytes of each target.
        config: the eval section.
        settings: the audit section.
        bos_id: the token that begins a document.
        recount: tokens (N,) -> (N-1,) bytes of each target, counted independently of ``byte_table``.
        scorer: gives a fresh one for an eval section: a shipped program's; None: this package's.
        as_run: the same of what makes the score, where ``scorer`` is more precise.

    Returns:
        JSON: :meth:`AuditReport.to_dict`, and ``sample``: its start, tokens, documents, bytes, the digest of its byte
        counts (:func:`counts_digest`), and the eval parameters it was scored with.
    """
    start = sample_start(tokens, settings.tokens, bos_id)
    stop = min(start + settings.tokens, tokens.numel())
    sample = tokens[start:stop].to("cpu", torch.int64)
    counts = byte_table.count(tokens[:stop].cpu())[start:] if start else byte_table.count(sample)
    short = shrink(config, sample.numel())
    documents = int((sample == bos_id).sum())
    rows = max(min(documents, short.lora_documents) // REGROUPED, 1)
    shapes = itertools.cycle((short, dataclasses.replace(short, lora_documents=rows)))
    fresh = partial(make_scorer, model, traced=True) if scorer is None else scorer
    report = audit(
        lambda: fresh(next(shapes)),
        sample,
        vocab_size=int(getattr(model, "vocab_size")),  # noqa: B009 - any module with a forward pass
        bos_id=bos_id,
        seed=settings.seed,
        positions=settings.positions,
        byte_counts=counts,
        recount=None if recount is None else recount(sample),
        independent_documents=config.ttt == "lora" and not config.phase_tokens and not config.tilt,
        order=config.order,
        loaded=True,
        as_run=None if as_run is None else partial(as_run, short),
    )
    described = {
        "start": start,
        "tokens": sample.numel(),
        "documents": documents,
        "bytes": int(counts.sum()),
        "bytes_digest": counts_digest(counts),
        "seq_len": short.seq_len,
        "stride": short.stride,
        "chunk_tokens": short.ttt_chunk_tokens,
    }
    return {**report.to_dict(), "sample": described}


def counts_digest(counts: Tensor) -> str:
    """SHA-256 of byte counts (N,) as little-endian int64: equal when every target counts the same."""
    return hashlib.sha256(counts.to("cpu", torch.int64).numpy().astype("<i8").tobytes()).hexdigest()


def shrink(config: Eval, tokens: int) -> Eval:
    """The eval section with chunks, and windows if need be, of which :data:`CHUNKS` fit into so many tokens."""
    chunk = min(config.ttt_chunk_tokens, max(math.ceil(tokens / CHUNKS), 2))
    seq_len = min(config.seq_len, chunk)
    return dataclasses.replace(
        config,
        ttt_chunk_tokens=chunk,
        seq_len=seq_len,
        stride=min(config.stride, seq_len),
        lora_chunk_tokens=min(config.lora_chunk_tokens, max(seq_len // 2, 1)),
        phase_tokens=min(config.phase_tokens, chunk),
    )


def sample_start(tokens: Tensor, count: int, bos_id: int) -> int:
    """Where to take ``count`` tokens: at the first document from which they reach into three more.

    Where documents are too long for that, at the one with the most starts behind it; 0 where there is none.
    """
    last = max(tokens.numel() - count, 0)
    starts = (tokens == bos_id).nonzero().flatten()
    if starts.numel() == 0:
        return 0
    held = torch.searchsorted(starts, starts + count) - torch.arange(starts.numel(), device=starts.device)
    held = torch.where(starts <= last, held.clamp_max(CHUNKS), 0)
    best = int(held.argmax()) if int(held.max()) > 0 else 0
    return min(int(starts[best]), last)
