"""Documents one behind the other in one row, as training reads them: where nothing is learnt from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from golf.model.attention import MASKED, Documents
from golf.scoring.documents import Document, Stream
from golf.scoring.windows import Forward, nll_of


def packable(model: nn.Module) -> bool:
    """Whether ``model`` knows where in a row a document begins, from lengths and not from a mask of all pairs."""
    if getattr(model, "attention", "sdpa") in MASKED:
        return False
    config = getattr(model, "config")  # noqa: B009 - any module's
    return bool(config.bos_mask and config.document_mask)


def packs(documents: Sequence[Document], size: int) -> list[list[Document]]:
    """Documents in rows of at most ``size`` tokens, the longest first; one that is longer is a row of its own."""
    rows: list[list[Document]] = []
    held = size
    for document in sorted(documents, key=lambda document: (-document.length, document.start)):
        if held + document.length + 1 > size:
            rows.append([])
            held = 0
        rows[-1].append(document)
        held += document.length + 1
    return rows


@torch.no_grad()
def score_pack(forward: Forward, stream: Stream, members: Sequence[Document], size: int, window: int) -> None:
    """Write what the stream's tokens are followed by with which probability, each ``window`` tokens back at most.

    Behind each document stands a token of -1, to which the next has no link. Shapes are few, to be recorded: rows of
    ``size`` tokens, and of lengths the next power of two.
    """
    lengths = torch.tensor([document.length + 1 for document in members])
    ends = lengths.cumsum(0)
    owner = torch.repeat_interleave(torch.arange(len(members)), lengths)
    places = torch.arange(len(owner)) - (ends - lengths)[owner]
    is_end = places == lengths[owner] - 1
    places += torch.tensor([document.start for document in members])[owner]
    places = F.pad(places.masked_fill(is_end, -1), (0, size - len(places)), value=-1).to(stream.tokens.device)
    starts = F.pad(F.pad(ends, (1, 0)), (0, 1), value=size).to(places.device, torch.int32)
    longest = max(members[0].length + 1, size - int(ends[-1]))
    documents = Documents(starts, 1 << (longest - 1).bit_length(), window)
    tokens = torch.where(places < 0, -1, stream.tokens[places])
    nll = nll_of(forward, tokens[None], stream.following[:, None, places], None, documents)
    stream.scores[:, places] = -nll[:, 0].double()
