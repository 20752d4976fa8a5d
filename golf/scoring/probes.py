"""Where an audit looks, and the changed streams it looks at. Everything follows from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from golf.scoring.protocol import Event

RUNS = 3  # changed streams scored for a check, at most: a full pass each


@dataclass(frozen=True)
class Probes:
    """Positions and lengths to try, edges first.

    Attributes:
        targets: positions whose whole distribution is asked for, twice each.
        cuts: first changed position of a stream whose rest is random.
        lengths: tokens that are left of a shortened stream.
        document: where the documents to reorder begin: a BOS, or the middle where there is none.
    """

    targets: tuple[int, ...]
    cuts: tuple[int, ...]
    lengths: tuple[int, ...]
    document: int


def choose(
    tokens: Tensor, trace: Sequence[Event], *, bos_id: int, positions: int, generator: torch.Generator
) -> Probes:
    """Probes for a stream (T,) whose scorer left ``trace``.

    The last target, both sides of an edge between two chunks, both sides of a document's start, then random ones.
    """
    count = tokens.numel()
    edges = [event.stop for event in trace if event.kind == "update" and 2 <= event.stop < count]
    edges = edges or [event.start for event in trace if event.kind == "score" and 2 <= event.start < count]
    starts = [int(place) for place in (tokens == bos_id).nonzero().flatten() if 1 <= int(place) < count]

    def draw(values: Sequence[int]) -> list[int]:
        return [values[_below(len(values), generator)]] if values else []

    edge, start = draw(edges), draw(starts)
    middle = 1 + _below(count - 1, generator)
    wanted = [count - 1, *edge, *(place - 1 for place in edge), middle, *(place + 1 for place in start), *start]
    targets = _distinct(wanted, count, positions)
    while len(targets) < min(positions, count - 1):
        targets = _distinct([*targets, 1 + _below(count - 1, generator)], count, positions)
    runs = min(RUNS, positions)
    cuts = _distinct([middle, *(place - 1 for place in edge), *start, *targets], count, runs)
    lengths = _distinct([*edge, middle, *(place + 1 for place in start), count // 2], count, runs)
    inner = [place for place in starts if count // 4 <= place <= count - count // 4]
    document = (draw(inner) or draw([place for place in starts if place < count - 4]) or [count // 2])[0]
    return Probes(tuple(targets), tuple(cuts), tuple(place for place in lengths if place >= 2), document)


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (1,), generator=generator))


def _distinct(places: Sequence[int], count: int, most: int) -> list[int]:
    """The first ``most`` different places that are targets of a stream of ``count`` tokens."""
    return list(dict.fromkeys(place for place in places if 1 <= place < count))[:most]


def replace_one(tokens: Tensor, position: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """The stream with another token at ``position``."""
    changed = tokens.clone()
    step = 1 + _below(vocab_size - 1, generator)
    changed[position] = (int(tokens[position]) + step) % vocab_size
    return changed


def replace_from(tokens: Tensor, position: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """The stream with another token at ``position`` and random ones behind it."""
    changed = replace_one(tokens, position, vocab_size, generator)
    rest = tokens.numel() - position - 1
    changed[position + 1 :] = torch.randint(vocab_size, (rest,), generator=generator)
    return changed


def replace_before(tokens: Tensor, position: int, bos_id: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """The stream with other tokens before ``position``, each document's start kept."""
    changed = tokens.clone()
    drawn = (tokens[:position] + torch.randint(1, vocab_size, (position,), generator=generator)) % vocab_size
    second = (bos_id + 1) % vocab_size
    other = torch.where(tokens[:position] == second, (bos_id + 2) % vocab_size, second)
    drawn = torch.where(drawn == bos_id, other, drawn)
    changed[:position] = torch.where(tokens[:position] == bos_id, bos_id, drawn)
    return changed


def reorder(tokens: Tensor, start: int, bos_id: int, generator: torch.Generator) -> Tensor:
    """The stream with its documents from ``start`` on in another order, of the same length in all.

    The longest of them is cut in two by a BOS, so that an order by length changes too; a BOS is put at ``start``.
    """
    rest = tokens[start:].clone()
    rest[0] = bos_id
    bounds = [int(place) for place in (rest == bos_id).nonzero().flatten()] + [rest.numel()]
    longest = max(range(len(bounds) - 1), key=lambda number: bounds[number + 1] - bounds[number])
    middle = (bounds[longest] + bounds[longest + 1]) // 2
    rest[middle] = bos_id
    bounds = sorted({*bounds, middle})
    documents = [rest[a:b] for a, b in pairwise(bounds)]
    order = torch.randperm(len(documents), generator=generator).tolist()
    if order == sorted(order):
        order.reverse()
    return torch.cat([tokens[:start], *(documents[number] for number in order)])
