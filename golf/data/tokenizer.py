"""SentencePiece: reading a model, training one, and what a model must fulfil for its bytes to be countable."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from golf.runtime.errors import ConfigError, DataError, MissingInput

SPACE_MARK = "\u2581"
NORMALIZER = "nmt_nfkc"
_SENTENCE_BYTES = 4000  # the trainer drops sentences above 4,192 bytes
_THREADS = 8  # written into the model: the same on every machine, or its bytes would differ


def load_sentencepiece(path: Path | str) -> Any:
    """A ``SentencePieceProcessor`` of the model at ``path``.

    Raises:
        MissingInput, DataError: no such file; not a SentencePiece model.
    """
    import sentencepiece

    path = Path(path)
    if not path.is_file():
        raise MissingInput(f"{path}: no such tokenizer", hint="ls data/source/tokenizer, or set tokenizer.model")
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        size = int(model.vocab_size())
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not a SentencePiece model ({reason})", hint="give a .model file") from None
    if size == 0:
        raise DataError(f"{path}: not a SentencePiece model (empty vocabulary)", hint="give a .model file")
    return model


def find_model(path: Path | str) -> Path | None:
    """The model that ``tokenizer.model`` names: that file, the one ``.model`` in that folder, or none to reuse.

    Raises:
        MissingInput: nothing is there.
        ConfigError: several models in the folder, or a file of another kind.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".model":
            raise ConfigError(f"tokenizer.model: found the file {path}, needed a SentencePiece .model or a folder")
        return path
    if not path.is_dir():
        raise MissingInput(f"tokenizer.model: {path}: no such file or folder", hint=f"mkdir -p {path}")
    models = sorted(file for file in path.glob("*.model") if file.is_file())
    if len(models) > 1:
        raise ConfigError(
            f"tokenizer.model: {path} holds {len(models)} models ({', '.join(file.name for file in models)}), "
            "needed one",
            hint=f"dvc exp run -S tokenizer.model={models[0]}",
        )
    return models[0] if models else None


def check_model(model: Any, path: Path | str) -> None:
    """Refuse a model whose tokens do not fit a shard or whose bytes cannot be counted.

    Raises:
        DataError: more than 65,536 tokens, no BOS, or no lone U+2581: such a model writes a single space as three
            byte tokens, and every score would come out too low.
    """
    size = int(model.vocab_size())
    if size > 65536:
        raise DataError(f"{path}: found {size:,} tokens, needed at most 65,536: a shard's token has 16 bits")
    if model.bos_id() < 0:
        raise DataError(f"{path}: found no BOS token, needed one before each document", hint="train with bos_id=1")
    mark = int(model.piece_to_id(SPACE_MARK))
    if model.id_to_piece(mark) != SPACE_MARK:
        raise DataError(
            f"{path}: found no token for a lone space (U+2581), needed one: a space would count three bytes",
            hint="train with required_chars=\u2581, or let tokenize train one",
        )


def train_model(
    documents: Iterable[str],
    vocab_size: int,
    train_bytes: int,
    *,
    transform: Callable[[Iterator[str]], Iterator[str]] | None = None,
    markers: Sequence[str] = (),
) -> bytes:
    """Train a byte-fallback BPE on the first ``train_bytes`` of ``documents`` and return the model's file.

    The same text gives the same bytes on every machine. The lone U+2581 is a required character, not a symbol of the
    user's: as a symbol it would never merge into the words that follow it.

    Args:
        documents: training text.
        vocab_size: tokens.
        train_bytes: UTF-8 bytes of text, before the transform.
        transform: what is learnt from, made of the sentences of the text; None: these.
        markers: code points that are symbols of their own, ids from 4 on: they merge into nothing.

    Raises:
        DataError: the text is too small or too uniform for the vocabulary.
    """
    import sentencepiece

    buffer = io.BytesIO()
    hint = f"bring more text, or dvc exp run -S tokenizer.vocab_size={max(260, vocab_size // 2)}"
    sentences = _sentences(documents, train_bytes)
    options: dict[str, Any] = {}
    if transform is not None:  # which may make a sentence longer
        sentences = transform(sentences)
        options = {"user_defined_symbols": list(markers), "max_sentence_length": 8 * _SENTENCE_BYTES}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=buffer,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.999,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name=NORMALIZER,
            add_dummy_prefix=False,
            hard_vocab_limit=False,
            required_chars=SPACE_MARK,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            num_threads=_THREADS,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-160:]
        raise DataError(f"tokenizer.vocab_size: {vocab_size} does not fit this text ({reason})", hint=hint) from None
    content = buffer.getvalue()
    found = int(sentencepiece.SentencePieceProcessor(model_proto=content).vocab_size())
    if found != vocab_size:
        raise DataError(
            f"tokenizer.vocab_size: found text for {found} tokens only, needed {vocab_size}: the corpus is too small",
            hint=hint.replace(str(max(260, vocab_size // 2)), str(max(260, found))),
        )
    return content


def _sentences(documents: Iterable[str], train_bytes: int) -> Iterator[str]:
    left = train_bytes
    for document in documents:
        for line in document.split("\n"):
            for sentence in _cut(line):
                size = len(sentence.encode())
                if size > left:
                    return
                left -= size
                yield sentence


def _cut(line: str) -> Iterator[str]:
    """Pieces of at most 4,000 bytes, cut at a space where there is one."""
    if len(line.encode()) <= _SENTENCE_BYTES:
        if line.strip():
            yield line
        return
    words: list[str] = []
    size = 0
    for word in line.split(" "):
        for start in range(0, max(len(word), 1), _SENTENCE_BYTES // 4):
            part = word[start : start + _SENTENCE_BYTES // 4]
            if words and size + len(part.encode()) + 1 > _SENTENCE_BYTES:
                yield " ".join(words)
                words, size = [], 0
            words.append(part)
            size += len(part.encode()) + 1
    if words:
        yield " ".join(words)
