"""Text that the quantiser is calibrated on, and its division into forward passes among ranks and seconds.

The text is of the training split, or the model's own. A model that keeps documents apart is given them as in training:
rows of whole documents, a segment each, cut every ``seq_len`` tokens (:mod:`golf.data.packing`). Without that mask a
window begins anywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from golf.data.loader import Rows, Stream
from golf.data.packing import PackedLoader, document_starts
from golf.data.shards import list_shards, read_shard
from golf.data.vocabulary import check_ids
from golf.model.attention import Documents
from golf.model.linear import TiedHead
from golf.model.transformer import Transformer
from golf.model.weights import ModelSpec
from golf.params.quant import Quant
from golf.quant.heldout import Say, batch_windows, sample
from golf.runtime.errors import DataError

ROW_SEGMENTS = 4  # of seq_len tokens, a row of documents: few begin in the middle of one
MOST_GENERATED = 1 << 17  # tokens of the model's own: without a cache of keys and values each costs a forward pass


class Peers(Protocol):
    """The ranks that share the work, see :class:`golf.optim.exchange.Peers`."""

    @property
    def index(self) -> int:
        """0 to ``count - 1``."""

    @property
    def count(self) -> int:
        """Ranks."""

    def sum_(self, tensor: Tensor) -> Any:
        """Replace ``tensor`` by its sum over ranks; done after ``wait()`` of what it returns."""


class Passes:
    """This rank's forward passes over ``text``, every ``count``-th: iterate, once or more, and add up each time.

    A pass holds the same rows however many ranks there are, so what is summed over passes in fp64 is the same but for
    the order of summation. A rank without a pass of its own is given the first one, to learn the shapes.

    Args:
        text: (N, T+1) tokens, or the rows of a loader.
        batch: rows a pass; 0: as many as :func:`golf.quant.heldout.batch_windows` says.
        device: where the tokens go.
        peers: who does the rest; None: nobody.
        seconds: passes that are not expected to end within are left out, but for the first.

    Raises:
        DataError: no windows.

    Attributes:
        idle: this rank's pass is not to be counted.
        done: tokens that came; after :meth:`add_up` over all ranks.
    """

    def __init__(
        self,
        text: Tensor | Rows,
        batch: int,
        device: torch.device,
        peers: Peers | None = None,
        seconds: float = math.inf,
    ) -> None:
        windows = text.tokens if isinstance(text, Rows) else text
        if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
            raise DataError(f"calibration: found windows {tuple(windows.shape)}, needed (1 or more, 2 or more)")
        self._text = text if isinstance(text, Rows) else Rows(text, None, text.shape[1] - 1)
        self._batch = batch = batch or batch_windows(windows, device)
        self._device, self._seconds = device, seconds
        self._peers = peers if peers is not None and peers.count > 1 else None
        index, count = (self._peers.index, self._peers.count) if self._peers else (0, 1)
        own = range(index, -(-self._text.tokens.shape[0] // batch), count)
        self.idle, self.done = not own, 0
        self._own = own or range(1)

    def __len__(self) -> int:
        return len(self._own)

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Documents]]]:
        """Tokens (rows, T+1), int64 on the device, and what ``forward`` is told of their documents."""
        started, self.done = time.perf_counter(), 0
        for number, place in enumerate(self._own):
            part = slice(place * self._batch, (place + 1) * self._batch)
            tokens = self._text.tokens[part].to(self._device, torch.int64)
            yield tokens, self._documents(part, tokens.shape[0])
            self.done += 0 if self.idle else tokens.shape[0] * (tokens.shape[1] - 1)
            if self._seconds < math.inf:
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                spent = time.perf_counter() - started
                if spent * (number + 2) / (number + 1) > self._seconds:
                    return

    def _documents(self, part: slice, rows: int) -> dict[str, Documents]:
        if self._text.starts is None:
            return {}
        length = self._text.tokens.shape[1] - 1
        starts = self._text.starts[part] + length * torch.arange(rows, dtype=torch.int32)[:, None]
        return {"documents": Documents(starts.flatten().to(self._device), self._text.longest)}

    def add_up(self, sums: Mapping[str, Tensor]) -> None:
        """Replace each of ``sums``, in place, by that over ranks; they have the same names and shapes on all."""
        if self._peers is None:
            return
        done = torch.tensor(float(self.done), dtype=torch.float64, device=self._device)
        if self.idle:
            for total in sums.values():
                total.zero_()
        pending = [self._peers.sum_(total) for total in [done, *(sums[name] for name in sorted(sums))]]
        for exchange in pending:
            exchange.wait()
        self.done = int(done)


def calibration_text(
    model: Transformer,
    shards: Path | str,
    config: Quant,
    spec: ModelSpec,
    seed: int,
    say: Say,
    peers: Peers | None = None,
) -> Rows:
    """The rows that ``config`` asks for: of the training split, or written by ``model``; the same on every rank.

    Raises:
        MissingInput, DataError: see :func:`training_text`.
    """
    if config.calibration == "train":
        return training_text(shards, tokens=config.calibration_tokens, seq_len=config.seq_len, seed=seed, spec=spec,
                             say=say)  # fmt: skip
    tokens = min(config.calibration_tokens, MOST_GENERATED)
    if tokens < config.calibration_tokens:
        say(f"{tokens:,} tokens of the model's own instead of {config.calibration_tokens:,}: each is a forward pass")
    written = generate(model, max(tokens // config.seq_len, 1), config.seq_len, seed, peers)
    return Rows(written, None, config.seq_len)


def training_text(
    shards: Path | str, *, tokens: int, seq_len: int, seed: int, spec: ModelSpec, say: Say | None = None
) -> Rows:
    """About ``tokens`` inputs of the training split, spread over its text, with at most ``seq_len`` of context.

    Windows as :func:`golf.quant.heldout.sample` draws them; with ``model.document_mask`` rows of documents.

    Raises:
        MissingInput: there is no shard.
        DataError: too little text, no BOS where documents are kept apart, a token outside the model's vocabulary.
    """
    if not spec.config.document_mask:
        windows = sample(shards, "train", tokens=tokens, seq_len=seq_len, seed=seed, spec=spec, say=say)
        return Rows(windows, None, windows.shape[1] - 1)
    paths = list_shards(shards, "train")
    enough = bool(paths) and (paths[0].stat().st_size - 1024) // 2 > tokens  # as there: one shard is a sample
    stream = Stream([read_shard(paths[0])]) if enough else Stream.open(shards, "train")
    starts = document_starts(stream, spec.bos_id)
    row_tokens = max(min(ROW_SEGMENTS * seq_len, int(starts[-1] - starts[0]) - 1), 1)
    loader = PackedLoader(stream, starts, bos_id=spec.bos_id, row_tokens=row_tokens, shortest=seq_len, seed=seed)
    rows = min(max(tokens // row_tokens, 1), loader.rows)
    if say is not None and rows * row_tokens < tokens - row_tokens:
        say(f"train text holds {rows * row_tokens:,} of the {tokens:,} tokens asked for: taking all")
    found = loader.read(0, rows, seq_len)
    check_ids(found.tokens, spec.vocab_size, f"{shards}: train split", "dvc repro train")
    return found


@torch.no_grad()
def generate(model: Transformer, windows: int, seq_len: int, seed: int, peers: Peers | None = None) -> Tensor:
    """Text that the model writes from BOS on, drawn at temperature 1 by its one forward pass: no data is read.

    The head makes the logits of the last place alone; all else is computed anew for each token, T/2 times the work of
    reading the same text. Ranks write different windows; a window is the same whoever writes it.

    Returns:
        (windows, seq_len + 1) int64 on the CPU, the same for the same ``seed`` and machine.
    """
    device = model.embed.weight.device
    text = torch.zeros(windows, seq_len + 1, dtype=torch.int64, device=device)
    batch = batch_windows(text, device)
    index, count = (peers.index, peers.count) if peers is not None else (0, 1)
    head = next(module for module in model.modules() if isinstance(module, TiedHead))
    handle = head.register_forward_pre_hook(lambda _, arguments: (arguments[0][:, -1:], *arguments[1:]))
    was_training = model.training
    model.eval()
    try:
        for place in range(index, -(-windows // batch), count):
            generator = torch.Generator(device).manual_seed((seed << 20) + place)
            rows = text[place * batch : (place + 1) * batch]
            rows[:, 0] = model.bos_id
            for length in range(1, seq_len + 1):
                chances = model(rows[:, :length])[:, -1].softmax(-1)
                rows[:, length] = torch.multinomial(chances, 1, generator=generator)[:, 0]
    finally:
        model.train(was_training)
        handle.remove()
    if peers is not None and count > 1:
        peers.sum_(text).wait()
    return text.cpu()
