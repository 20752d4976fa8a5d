"""Faults of the files: each caught by the check that names it, honest twins pass."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from golf.data import published, static
from golf.data.static import CHECKS, Files, check_files, score

VOCAB, BOS = 500, 1
TEXT = MappingProxyType({"source": "text"})


def documents(seed: int, count: int, length: int = 90) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(length // 2, length, count)
    return [np.concatenate(([BOS], rng.integers(4, VOCAB, size))).astype(np.uint16) for size in sizes]


def pieces() -> dict[str, np.ndarray]:
    ids = np.arange(VOCAB)
    return {"base": np.where(ids < 4, 0, ids % 5 + 1), "leading_space": (ids % 3 == 0) & (ids > 3), "boundary": ids < 4}


def described(splits: dict[str, list[np.ndarray]], **more: Any) -> Files:
    """Files whose index says what they hold."""
    files = Files(splits, None, {"bos_id": BOS, "splits": {}}, TEXT, pieces(), pieces())
    totals = {
        name: {
            "files": [f"{name}_{number:06d}.bin" for number in range(len(shards))],
            "tokens": sum(shard.size for shard in shards),
            "documents": sum(int((shard == BOS).sum()) for shard in shards),
            "bytes": static.count_bytes(files) if name == "val" else 0,
        }
        for name, shards in splits.items()
    }
    return replace(files, index={"bos_id": BOS, "splits": totals}, **more)


def honest(train: list[np.ndarray] | None = None) -> Files:
    """Three splits; the training text lies in two shards, cut within a document."""
    stream = np.concatenate(documents(1, 300) if train is None else train)
    val = np.concatenate(documents(2, 100))
    cut = stream.size // 2 + 7
    heldout = np.concatenate(documents(3, 5))
    return described({"train": [stream[:cut], stream[cut:]], "heldout": [heldout], "val": [val[:4000], val[4000:]]})


def with_split(files: Files, name: str, shards: list[np.ndarray]) -> Files:
    """The shards of one split changed after the index was written."""
    return replace(files, splits={**files.splits, name: shards})


def leak(share: float, seed: int = 0) -> Files:
    """A preparation that put that share of the validation documents among the training documents."""
    val, train = documents(2, 100), documents(1, 300)
    for place, number in enumerate(np.random.default_rng(seed).permutation(100)[: round(share * 100)]):
        train.insert(3 * place, val[number])
    return honest(train)


def framed() -> Files:
    """Every validation document again, with another head and foot: none is the same, all are known."""
    rng = np.random.default_rng(4)
    frames = [np.concatenate((d[:1], rng.integers(4, VOCAB, 4), d[3:], rng.integers(4, VOCAB, 9))) for d in
              documents(2, 100)]  # fmt: skip
    return honest([*documents(1, 300), *(frame.astype(np.uint16) for frame in frames)])


def in_heldout() -> Files:
    files = honest()
    return described({**files.splits, "heldout": [np.concatenate(documents(2, 100)[:40])]})


def lost_shard() -> Files:
    files = honest()
    return with_split(files, "val", files.splits["val"][:1])


def cut_shard() -> Files:
    files = honest()
    return with_split(files, "val", [files.splits["val"][0], files.splits["val"][1][:-50]])


def other_text() -> Files:
    files = honest()
    return with_split(files, "val", [files.splits["val"][0], np.where(files.splits["val"][1] == BOS, BOS, 9)])


def published_part() -> Files:
    """The first documents of the published set, sold as the whole."""
    return replace(honest(), manifest={"source": "fineweb", "variant": "sp1024", "validation": "published"})


def no_bos() -> Files:
    val = np.concatenate(documents(2, 100))
    return described({**honest().splits, "val": [val[val != BOS]]})


def lost_bos() -> Files:
    files = honest()
    train = files.splits["train"][1].copy()
    train[np.flatnonzero(train == BOS)[5]] = 77
    return with_split(files, "train", [files.splits["train"][0], train])


def table(change: Callable[[dict[str, np.ndarray]], None]) -> Files:
    wrong = pieces()
    change(wrong)
    return replace(honest(), table=wrong)


def space_twice(columns: dict[str, np.ndarray]) -> None:
    columns["base"] = columns["base"] + columns["leading_space"]


def byte_tokens_of_six(columns: dict[str, np.ndarray]) -> None:
    columns["base"][10:50] = 6


def unused_no_boundary(columns: dict[str, np.ndarray]) -> None:
    columns["boundary"][3] = False


def of_another_vocabulary(columns: dict[str, np.ndarray]) -> None:
    for name in columns:
        columns[name] = columns[name][:-100]


def sidecar_with_bos() -> Files:
    files = honest()
    return replace(files, sidecar=np.full(sum(shard.size for shard in files.splits["val"]), 2, np.uint16))


FAULTS: list[tuple[Callable[[], Files], str]] = [
    (lambda: leak(0.8), "overlap"),
    (lambda: leak(0.05), "overlap"),
    (framed, "overlap"),
    (in_heldout, "overlap"),
    (lost_shard, "split"),
    (cut_shard, "split"),
    (other_text, "split"),
    (published_part, "split"),
    (no_bos, "bos"),
    (lost_bos, "bos"),
    (lambda: table(space_twice), "byte-table"),
    (lambda: table(byte_tokens_of_six), "byte-table"),
    (lambda: table(unused_no_boundary), "byte-table"),
    (lambda: table(of_another_vocabulary), "byte-table"),
    (sidecar_with_bos, "byte-table"),
]


def failed(files: Files) -> list[str]:
    return [name for name, (passed, _) in check_files(files).items() if not passed]


@pytest.mark.parametrize(("make", "check"), FAULTS)
def test_a_fault_is_caught_by_the_check_that_names_it(make: Callable[[], Files], check: str) -> None:
    found = failed(make())
    assert check in found
    assert set(found) <= {check, *{"bos": {"split"}, "split": {"bos"}, "byte-table": {"split"}}.get(check, set())}


def with_sidecar() -> Files:
    files = honest()
    counts = np.where(np.concatenate(files.splits["val"]) == BOS, 0, 3).astype(np.uint16)
    files = replace(files, sidecar=counts)
    files.index["splits"]["val"]["bytes"] = static.count_bytes(files)
    return files


def whole_published(monkeypatch: pytest.MonkeyPatch) -> Files:
    """The published totals are those of this text."""
    files = replace(honest(), manifest={"source": "fineweb", "variant": "sp1024", "validation": "published"})
    totals = files.index["splits"]["val"]
    monkeypatch.setitem(published.VAL_TARGETS, "sp1024", (totals["tokens"] - 1,))
    monkeypatch.setattr(static, "VAL_DOCUMENTS", totals["documents"])
    monkeypatch.setattr(static, "TARGET_BYTES", totals["bytes"])
    return files


def test_honest_twins_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    one_page_twice = leak(0.01)  # web text repeats itself
    own = replace(honest(), manifest={"source": "fineweb", "variant": "sp1024", "validation": "own"})
    for files in (honest(), one_page_twice, own, with_sidecar(), whole_published(monkeypatch)):
        assert failed(files) == [], check_files(files)


def test_phrases_that_all_documents_share_are_no_leak() -> None:
    """Every document, of both splits, begins with the same 20 tokens."""
    phrase = np.arange(100, 120, dtype=np.uint16)
    splits = {
        name: [np.concatenate([np.concatenate((d[:1], phrase, d[1:])) for d in documents(seed, count)])]
        for name, seed, count in (("train", 1, 300), ("heldout", 3, 5), ("val", 2, 100))
    }
    passed, evidence = static.shares(described(splits))
    assert passed
    assert "0 of 100 validation documents" in evidence


def log_of(files: Files) -> tuple[np.ndarray, dict[str, Any]]:
    """A per-token log, and the report that it gives."""
    targets = sum(shard.size for shard in files.splits["val"]) - 1
    nll = np.random.default_rng(5).exponential(3.0, targets)
    size = static.count_bytes(files)
    bpb = nll.sum() / np.log(2) / size
    return nll, {"tokens": targets, "bytes": size, "nats_per_token": nll.mean(), "bpb": bpb}


def smaller(nll: np.ndarray, report: dict[str, Any]) -> np.ndarray:
    nll[17] *= 0.999
    return nll


def free_token(nll: np.ndarray, report: dict[str, Any]) -> np.ndarray:
    nll[17] = -0.5
    report["nats_per_token"], report["bpb"] = nll.mean(), nll.sum() / np.log(2) / report["bytes"]
    return nll


def skipped_tail(nll: np.ndarray, report: dict[str, Any]) -> np.ndarray:
    return nll[:-100]


def scored_twice(nll: np.ndarray, report: dict[str, Any]) -> np.ndarray:
    return np.concatenate((nll, nll[-100:]))


def not_a_number(nll: np.ndarray, report: dict[str, Any]) -> np.ndarray:
    nll[17] = np.nan
    return nll


def inflated_bytes(nll: np.ndarray, report: dict[str, Any]) -> np.ndarray:
    report["bytes"] = round(report["bytes"] * 1.17)
    report["bpb"] /= 1.17
    return nll


def better_report(nll: np.ndarray, report: dict[str, Any]) -> np.ndarray:
    report["bpb"] -= 0.0001
    return nll


@pytest.mark.parametrize(
    "forge", [smaller, free_token, skipped_tail, scored_twice, not_a_number, inflated_bytes, better_report]
)
def test_a_score_that_is_not_its_log_is_caught(forge: Callable[[np.ndarray, dict[str, Any]], np.ndarray]) -> None:
    files = honest()
    nll, report = log_of(files)
    assert score(files, nll, report)[0]
    assert not score(files, forge(nll, report), report)[0]


def test_every_check_has_a_fault() -> None:
    assert {check for _, check in FAULTS} == set(CHECKS)
