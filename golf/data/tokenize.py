"""Write ``data/tokenizer`` and ``data/shards``."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from golf.data.cores import available_cores
from golf.data.encode import (
    PARALLEL_FROM,
    encode_documents,
    stream_bytes,
    text_digest,
    validation_documents,
)
from golf.data.raw import place, raw_documents, read_manifest
from golf.data.scan import Documents, shared_documents
from golf.data.shards import INDEX, list_shards, read_shard, sidecar_name, write_shard
from golf.data.sidecar import TokenBytes
from golf.data.tokenizer import check_model, find_model, load_sentencepiece
from golf.data.transform import check_transform, marker_ids, train_transformed
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import ConfigError, DataError
from golf.runtime.files import whole_directory, write_bytes, write_json
from golf.runtime.progress import Progress

SPLITS = ("train", "heldout", "val")
TRIED = 200  # documents of a validation shard that are encoded again, or up to twice as many
JUDGED_TOKENS = 16  # in shorter documents tokenizers may agree


def tokenize(
    config: Tokenizer,
    raw: Path | str = "data/raw",
    tokenizer: Path | str = "data/tokenizer",
    shards: Path | str = "data/shards",
) -> dict[str, Any]:
    """Train or reuse the tokenizer, encode every split, and return the index of the shards.

    Raises:
        DataError, ConfigError, MissingInput: the raw data and the tokenizer do not fit each other or the parameters;
            nothing is written then.
    """
    raw = Path(raw)
    manifest = read_manifest(raw)
    with whole_directory(tokenizer) as tokenizer_folder, whole_directory(shards) as folder:
        chosen = _validation_choice(config, raw)
        model_path = tokenizer_folder / "tokenizer.model"
        _bring_model(config, raw, model_path, chosen)
        model = load_sentencepiece(model_path)
        vocab_size, bos_id = int(model.vocab_size()), int(model.bos_id())
        total = sum(entry.get("text_bytes", 0) for entry in manifest["files"])
        with Progress("tokenize", max(total / 1e6, 1e-6)) as bar:
            writer = _Writer(model_path, config, total, bar)
            if list_shards(raw, "train"):
                _pass_through(raw, folder, "train", model)
            else:
                train = (text for text in raw_documents(raw, "train") if text_digest(text) not in chosen)
                writer.write(folder, "train", train)
            if list_shards(raw, "val"):
                _pass_through(raw, folder, "val", model)
            else:
                writer.write(folder, "val", _val_text(raw, chosen))
        _split_heldout(folder, config.heldout_share, bos_id)
        index = _index(folder, model_path, vocab_size, bos_id)
        index["splits"]["val"] |= {"raw_bytes": writer.raw["val"]} if "val" in writer.raw else {}
        if config.transform != "none":
            index |= {"transform": config.transform, "restored_documents": writer.documents}
        if bool(list_shards(raw, "val")) != bool(list_shards(raw, "train")):
            _check_overlap(folder, bos_id)
        write_json(folder / INDEX, index)
        _write_table(model_path, tokenizer_folder)
    return index


def _validation_choice(config: Tokenizer, raw: Path) -> set[bytes]:
    """Digests of the training documents that become validation; none when validation came with the data."""
    if list_shards(raw, "val") or any(raw.glob("val-*.jsonl")):
        return set()
    if list_shards(raw, "train"):
        raise DataError(
            f"{raw}: found training shards without validation, needed validation shards or text",
            hint="put some into data/source/val (data.val_path)",
        )
    return validation_documents(raw_documents(raw, "train"), config.val_share)


def _val_text(raw: Path, chosen: set[bytes]) -> Iterator[str]:
    if not chosen:
        yield from raw_documents(raw, "val")
        return
    yield from (text for text in raw_documents(raw, "train") if text_digest(text) in chosen)


def _bring_model(config: Tokenizer, raw: Path, target: Path, chosen: set[bytes]) -> None:
    """Put the model at ``target``: the user's, the one of the published shards, or one trained on training text."""
    given, published = find_model(config.model), raw / "tokenizer.model"
    shards = list_shards(raw, "train") + list_shards(raw, "val")
    if shards and config.transform != "none":
        raise ConfigError(
            f"tokenizer.transform: found {config.transform!r}, but {shards[0]} is tokenized already: needed text",
            hint="dvc exp run -S tokenizer.transform=none (their sidecars come along)",
        )
    if published.is_file():
        if given is not None and given.read_bytes() != published.read_bytes():
            raise ConfigError(
                f"tokenizer.model: found {given}, but the published shards come with another tokenizer",
                hint="dvc exp run -S tokenizer.model=data/source/tokenizer (an empty folder)",
            )
        given = published
    if given is None:
        if list_shards(raw, "val"):
            raise DataError(
                f"{raw}: validation is shards, and there is no tokenizer to reuse: theirs is needed",
                hint="dvc exp run -S tokenizer.model=THEIR.model",
            )
        train = (text for text in raw_documents(raw, "train") if text_digest(text) not in chosen)
        write_bytes(target, train_transformed(train, config.vocab_size, config.train_bytes, config.transform))
    else:
        shutil.copyfile(given, target)
    model = load_sentencepiece(target)
    check_model(model, given or target.name)
    if any(raw.glob("*.jsonl")):
        check_transform(model, given or target.name, config.transform)


class _Writer:
    """Encodes documents into shards of ``shard_tokens`` tokens; the last one is shorter."""

    def __init__(self, model: Path, config: Tokenizer, text_bytes: int, bar: Progress) -> None:
        self.model = model
        self.config = config
        self.processes = available_cores() if text_bytes >= PARALLEL_FROM else 1
        self.bar = bar
        self.documents = 0  # with tokens: each has come back from them
        self.raw: dict[str, int] = {}  # UTF-8 bytes of those, as they came, by split

    def write(self, folder: Path, split: str, documents: Iterable[str]) -> None:
        """Write ``split`` of ``documents``; with the sidecar of a transform, if it is ``val``.

        Raises:
            DataError: no document has a token, or one does not come back from its tokens.
        """
        transform, size = self.config.transform, self.config.shard_tokens
        shards = [_Shards(folder, split, size)]
        counter = TokenBytes(load_sentencepiece(self.model)) if split == "val" and transform != "none" else None
        if counter:
            shards.append(_Shards(folder, f"{split}_bytes", size))
        sizes: deque[int] = deque()
        raw = 0
        try:
            for encoded, text_bytes in encode_documents(
                self.model, _measured(documents, sizes), processes=self.processes, transform=transform
            ):
                for tokens in encoded:
                    raw += sizes.popleft() * (tokens.size > 0)
                    self.documents += tokens.size > 0
                shards[0].add(encoded)
                if counter:
                    shards[1].add([counter.count(tokens) for tokens in encoded])
                self.bar.advance(text_bytes / 1e6, split)
        except DataError as error:
            raise DataError(f"the split {split}: {error}") from None
        self.raw[split] = raw
        if raw == 0:
            raise DataError(f"data/raw: no token in the split {split!r}: its documents normalise to nothing")
        for files in shards:
            files.close()


class _Shards:
    """Files of ``size`` numbers each, NAME_NNNNNN.bin; the last one is shorter."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.folder, self.name, self.size = folder, name, size
        self.waiting: list[np.ndarray] = []
        self.held = self.count = 0

    def add(self, parts: list[np.ndarray]) -> None:
        """Write what fills whole files, and keep the rest."""
        self.waiting += parts
        self.held += sum(part.size for part in parts)
        while self.held >= self.size:
            stream = np.concatenate(self.waiting)
            self._write(stream[: self.size])
            self.waiting, self.held = [stream[self.size :]], self.held - self.size

    def close(self) -> None:
        """Write the rest."""
        if self.held:
            self._write(np.concatenate(self.waiting))

    def _write(self, numbers: np.ndarray) -> None:
        write_shard(self.folder / f"{self.name}_{self.count:06d}.bin", numbers)
        self.count += 1


def _measured(documents: Iterable[str], sizes: deque[int]) -> Iterator[str]:
    """``documents``, and the UTF-8 bytes of each into ``sizes``."""
    for text in documents:
        sizes.append(len(text.encode()))
        yield text


def _pass_through(raw: Path, folder: Path, split: str, model: Any) -> None:
    """Link the shards of ``split`` under our names; their tokens must be the tokenizer's."""
    vocab_size = int(model.vocab_size())
    for number, path in enumerate(list_shards(raw, split)):
        tokens = read_shard(path)
        largest = int(tokens.max()) if tokens.size else -1
        if largest >= vocab_size:
            raise _another(path, f"found token {largest}, needed 0 to {vocab_size - 1}")
        if split == "val":
            _check_text(path, tokens, model)
        place(path, folder / f"{split}_{number:06d}.bin", link=True)
        sidecar = path.with_name(sidecar_name(path.name, split))
        if sidecar.is_file():
            place(sidecar, folder / f"{split}_bytes_{number:06d}.bin", link=True)


def _check_text(path: Path, tokens: np.ndarray, model: Any) -> None:
    """Most documents, decoded, must be encoded to the same tokens again.

    Ids that fit say nothing: any tokenizer as large has them. Of FineWeb and of documentation each document came back
    through its own tokenizer, 4 of 233 and 0 of 12 through another one.

    Raises:
        DataError: less than half of them are.
    """
    starts = np.flatnonzero(tokens == model.bos_id())
    whole = [(start + 1, stop) for start, stop in pairwise(starts.tolist()) if stop - start > JUDGED_TOKENS]
    tried = whole[:: max(len(whole) // TRIED, 1)]
    same = 0
    for start, stop in tried:
        ids = tokens[start:stop].tolist()
        text = model.decode(ids)
        same += ids in (model.encode(text), model.encode(" " + text))  # a decoder leaves a first space out
    if 2 * same < len(tried):
        raise _another(path, f"found {same:,} of {len(tried):,} documents whose text gives their tokens, needed half")


def _another(path: Path, what: str) -> DataError:
    hint = "dvc exp run -S tokenizer.model=THEIR.model"
    return DataError(f"{path}: {what}: another tokenizer wrote this shard", hint=hint)


def _split_heldout(folder: Path, share: float, bos_id: int) -> None:
    """Move the last ``share`` of the training tokens to the split heldout, from the nearest document's start on.

    Where none is near (half that share at most), a document is cut and its rest begins with a BOS of its own.
    """
    paths = list_shards(folder, "train")
    sizes = [read_shard(path).size for path in paths]
    wanted = max(round(share * sum(sizes)), 2)
    tail: list[np.ndarray] = []
    while paths and sum(part.size for part in tail) < wanted:
        path = paths.pop()
        tokens = read_shard(path)
        missing = wanted - sum(part.size for part in tail)
        if tokens.size <= missing and paths:
            tail.insert(0, np.array(tokens))
            path.unlink()
            continue
        cut = max(tokens.size - missing, 0)
        starts = np.flatnonzero(np.asarray(tokens) == bos_id)
        starts = starts[(starts >= 1) & (np.abs(starts - cut) <= wanted // 2)]
        place_of_cut = int(starts[np.abs(starts - cut).argmin()]) if starts.size else cut
        tail.insert(0, np.array(tokens[place_of_cut:]))
        kept = np.array(tokens[:place_of_cut])
        path.unlink()  # a link to the raw shard: never written through
        if kept.size:
            write_shard(path, kept)
        break
    heldout = np.concatenate(tail) if tail else np.zeros(0, dtype=np.uint16)
    if heldout.size and heldout[0] != bos_id:
        heldout = np.concatenate([np.array([bos_id], dtype=np.uint16), heldout])
    if heldout.size < 2 or sum(read_shard(path).size for path in list_shards(folder, "train")) < 2:
        raise DataError(
            f"data/raw: {sum(sizes):,} training tokens are too few to keep {share:.0%} of them aside",
            hint="bring more text, or raise data.max_bytes",
        )
    write_shard(folder / "heldout_000000.bin", heldout)


def _index(folder: Path, model_path: Path, vocab_size: int, bos_id: int) -> dict[str, Any]:
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        paths = list_shards(folder, split)
        parts = [read_shard(path) for path in paths]
        splits[split] = {
            "files": [path.name for path in paths],
            "tokens": sum(part.size for part in parts),
            "documents": sum(int(np.count_nonzero(part == bos_id)) for part in parts),
            "bytes": stream_bytes(model_path, paths, folder if split == "val" else None),
        }
    return {"vocab_size": vocab_size, "bos_id": bos_id, "splits": splits}


def _check_overlap(folder: Path, bos_id: int) -> None:
    """One of validation and training came as shards, the other as text: only now, as tokens, can they be compared."""
    both = []
    for splits in (("val",), ("train", "heldout")):
        parts = [read_shard(path) for split in splits for path in list_shards(folder, split)]
        both.append(Documents(parts, [np.flatnonzero(part == bos_id) for part in parts]))
    shared = shared_documents(*both)
    if shared:
        raise DataError(
            f"data/raw: overlap: found {len(shared):,} of {both[0].starts.size:,} validation documents in the training "
            "data, needed none: their scores would be memory",
            hint="remove them from data.path or data.val_path",
        )


def _write_table(model_path: Path, folder: Path) -> None:
    from golf.data.bytecount import ByteTable  # imports torch: not in the encoding processes

    markers = marker_ids(load_sentencepiece(model_path))
    ByteTable.from_sentencepiece(model_path, markers=markers).save(folder / "bytes.safetensors")
