"""Documents one behind the other in one row, as training reads them: where nothing is learnt from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from golf.model.attention import MASKED, Documents
from golf.scoring.documents import Document, Stream
from golf.scoring.windows import nll_of

MULTIPLE = 256  # of tokens in a row: few shapes to choose kernels for


def packable(model: nn.Module) -> bool:
    """Whether ``model`` knows where in a row a document begins, from lengths and not from a mask of all pairs."""
    if getattr(model, "attention", "sdpa") in MASKED:
        return False
    config = getattr(model, "config")  # noqa: B009 - any module's
    return bool(config.bos_mask and config.document_mask)


def packs(members: Sequence[Document], size: int) -> tuple[list[list[Document]], list[Document]]:
    """Documents in rows of at most ``size`` tokens, and those that are longer."""
    rows: list[list[Document]] = []
    held = size
    for document in members:
        if document.length < size:
            if held + document.length + 1 > size:
                rows.append([])
                held = 0
            rows[-1].append(document)
            held += document.length + 1
    return rows, [document for document in members if document.length >= size]


@torch.no_grad()
def score_pack(model: nn.Module, stream: Stream, members: Sequence[Document], window: int) -> None:
    """Write what the stream's tokens are followed by with which probability, each ``window`` tokens back at most.

    Behind each document stands a token of -1, to which the next has no link.
    """
    lengths = torch.tensor([document.length + 1 for document in members])
    ends = lengths.cumsum(0)
    owner = torch.repeat_interleave(torch.arange(len(members)), lengths)
    places = torch.arange(len(owner)) - (ends - lengths)[owner]
    is_end = places == lengths[owner] - 1
    places += torch.tensor([document.start for document in members])[owner]
    places = F.pad(places.masked_fill(is_end, -1), (0, -len(places) % MULTIPLE), value=-1).to(stream.tokens.device)
    starts = F.pad(ends, (1, 1))
    starts[-1] = len(places)
    documents = Documents(starts.to(places.device, torch.int32), int(lengths.max()), window)
    tokens = torch.where(places < 0, -1, stream.tokens[places])
    nll = nll_of(model, tokens[None], stream.following[:, None, places], None, documents)
    stream.scores[:, places] = -nll[:, 0].double()
