"""The scorer that reads each document from its beginning, alone or learning from it as it goes.

A document is read once, whole or piece by piece behind the keys and values of what came before: a token sees the last
``seq_len`` in each layer, and these saw those before them. With ``ttt: lora`` each document has adapters of its own: a
piece is scored, then learnt from, then the next is scored with what was learnt (score-first). They begin anew with
every document, so no document changes another's score, whatever the order of the work. The public records read up to
2,048 tokens again for every 48; here keys and values stay what they were when their tokens were read.

With ``phase_tokens`` the model learns too: after so many targets, to the end of their last document, all weights are
trained on these documents as :class:`golf.scoring.learner.Learner` does, and the next documents begin from there.

With ``order: length`` phases take the longest documents first, as those of public records did: it shows what that is
worth. When a document is scored then depends on how long later ones are, so no such score is one of a stream read from
left to right, and the audit's ``document-order`` fails and names it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from golf.params.eval import Eval
from golf.scoring.documents import Document, Stream, by_length, deal, group, phases, pieces, split, targets
from golf.scoring.learner import Learner, OnScored, check_stream, gather, has_time, meet, ranks, refuse_infinite
from golf.scoring.packed import packable, packs, score_pack
from golf.scoring.protocol import Event
from golf.scoring.reader import Piece, Reader
from golf.scoring.recorded import Recorded, forward_of, recordable
from golf.scoring.state import digest
from golf.scoring.windows import Forward

PLAIN_SHARE = 0.5  # of the seconds of learning that scoring alone takes at most: a backward pass is two forward ones


class Pace:
    """How long it would take to score without learning, by what was done since this was made."""

    def __init__(self) -> None:
        self.began, self.done = time.monotonic(), 0

    def seconds(self, left: float) -> float:
        """For ``left`` targets; 0 while nothing is known."""
        return PLAIN_SHARE * left * (time.monotonic() - self.began) / self.done if self.done else 0.0


class DocumentScorer:
    """Every target in the context of its own document, from its BOS on; a layer sees ``seq_len`` tokens back at most.

    Args:
        model: ``forward(tokens, targets, adapters, past=)`` as :class:`golf.model.transformer.Transformer`; it is
            left unchanged.
        config: the eval section.
        adapts: learn as ``config`` says; else only read.
        deadline: moment of ``time.monotonic()`` by which all shall be scored; learning ends in time for that.
        traced: keep a trace, with a digest of the adapters at each step, for an audit.
        on_scored: told of progress.

    Attributes:
        adapted: documents that were learnt from, by all ranks.
        waited: seconds that the last :meth:`score` stood idle until every rank was done.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Eval,
        *,
        adapts: bool = True,
        deadline: float = math.inf,
        traced: bool = False,
        on_scored: OnScored | None = None,
    ) -> None:
        self.model, self.config, self.adapts, self.deadline = model, config, adapts, deadline
        self.traced, self.on_scored = traced, on_scored
        self.adapted = 0
        self.waited = 0.0
        self._pace = Pace()
        self._events: dict[int, list[Event]] = {}
        self._recorded: Recorded | None = None
        self._forward: Forward = model
        self._row = config.batch_windows * config.seq_len  # tokens, of documents one behind the other

    @property
    def trace(self) -> Sequence[Event]:
        """What the last :meth:`score` did, document by document: empty unless ``traced``."""
        return [event for start in sorted(self._events) for event in self._events[start]]

    def score(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) float64 on the CPU: log-probability of tokens[1:], groups split over the ranks.

        Raises:
            DataError: fewer than two tokens, a token outside the vocabulary, or a score that is not finite.
        """
        return self._score(tokens)[0]

    def score_beside(self, tokens: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`score`, and (T-1,) float64: log-probability of hints[1:], given ``hints`` (T,) int64."""
        scores, beside = self._score(tokens, hints)
        return scores, beside

    def _score(self, tokens: Tensor, *hints: Tensor) -> Tensor:
        """(N, T-1): of the targets, of hints."""
        ordered, documents = self._prepare(tokens)
        following = torch.stack([each.to(ordered.device).roll(-1) for each in (ordered, *hints)])
        stream = Stream(ordered, following, torch.zeros_like(following, dtype=torch.float64))
        self.adapted, self.waited, self._events, self._pace = 0, 0.0, defaultdict(list), Pace()
        learner = Learner(self.model, self.config) if self._has_phases else None
        self._forward = forward_of(self.model if learner is None else learner.model)
        for phase in documents:
            later = (tokens.numel() - 1 - phase[-1].stop) / ranks()[1]
            self._score_phase(self.model if learner is None else learner.model, phase, later, stream)
            self.waited += meet(ordered.device)
            lesson = self.config.ttt_epochs * targets(phase) / ranks()[1] / PLAIN_SHARE  # as long as adapters learnt
            deadline = self.deadline - self._pace.seconds(later + lesson)
            if learner is not None and later > 0 and has_time(deadline, ordered.device):
                learn_phase(learner, phase, ordered)
                state = digest(learner.model) if self.traced else ""
                for document in phase:
                    self._note(phase[-1].stop, "update", document.start + 1, document.stop + 1, state)
        self.waited += 0.0 if learner is None else learner.waited
        self._recorded, self._forward = None, self.model  # their memory
        stream.scores[0, -1] = self.adapted
        found = gather(stream.scores)
        if self.config.order == "length":
            # A score belongs to the input that it follows: the target of a document's last is a BOS, whoever's.
            found[0] = found[0].scatter(0, self._places, found[0])
        self.adapted = int(found[0, -1])
        refuse_infinite(found[0, :-1], 1)
        return found[:, :-1]

    def parts(self, tokens: Tensor) -> int:
        """How many documents there are."""
        return sum(map(len, self._prepare(tokens)[1]))

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: what scores ``tokens[position]``: its group is read again up to there."""
        ordered, documents = self._prepare(tokens, position)
        following = ordered.roll(-1)[None]
        stream = Stream(ordered, following, following)
        if self.config.order == "length":
            position = int((self._places == position - 1).nonzero()) + 1
        learner = Learner(self.model, self.config) if self._has_phases else None
        for phase in documents:
            if position <= phase[-1].stop:
                break
            if learner is not None:
                learn_phase(learner, phase, ordered)
        model = self.model if learner is None else learner.model
        for members in group(phase, self.config.lora_documents):
            for row, document in enumerate(members):
                if document.start < position <= document.stop:
                    return self._distribution(model, members, stream, row, position - document.start - 1)
        raise AssertionError("every target is a document's")

    @property
    def _has_phases(self) -> bool:
        return self.adapts and self.config.phase_tokens > 0

    def _prepare(self, tokens: Tensor, position: int = 1) -> tuple[Tensor, list[list[Document]]]:
        """The stream on the model's device, and its documents by phase."""
        check_stream(self.model, tokens, position)
        self.model.eval()
        tokens, bos_id = tokens.cpu(), int(getattr(self.model, "bos_id"))  # noqa: B009 - any module's
        if self.config.order == "length":
            self._places = by_length(tokens, bos_id)  # where each token stands
            tokens = tokens[self._places]
        per_phase = self.config.phase_tokens if self._has_phases else 0
        return tokens.to(next(self.model.parameters()).device, torch.int64), phases(split(tokens, bos_id), per_phase)

    def _score_phase(self, model: nn.Module, documents: list[Document], later: float, stream: Stream) -> None:
        """Score this rank's groups; learning ends when all that is left, ``later`` targets too, would come too late."""
        rank, count = ranks()
        packed = packable(model) and not self.adapts
        groups = packs(documents, self._row) if packed else group(documents, self.config.lora_documents)
        groups = deal(groups, count, pieces(self.config, self.adapts))[rank]
        left = later + sum(map(targets, groups))
        for members in groups:
            needed = self._pace.seconds(left + targets(members))  # to learn from these takes as long as to read two
            learns = self.adapts and time.monotonic() + needed < self.deadline
            self._score_group(model, members, stream, learns)
            self.adapted += learns * len(members)
            left -= targets(members)
            self._pace.done += targets(members)
            if stream.tokens.is_cuda:
                torch.cuda.synchronize(stream.tokens.device)  # else the clock would show what is queued
            if self.on_scored is not None:
                self.on_scored(targets(members))

    def _score_group(self, model: nn.Module, members: list[Document], stream: Stream, learns: bool) -> None:
        if learns or not packable(model):
            self._read_group(model, members, stream, learns)
            return
        base = digest(model) if self.traced else ""
        for row in packs(members, self._row):
            if row[0].length >= self._row:
                self._read_group(model, row, stream, learns)
                continue
            score_pack(self._forward, stream, row, self._row, self.config.seq_len)
            for document in row:
                self._note(document.start, "score", document.start + 1, document.stop + 1, base)

    def _read_group(self, model: nn.Module, members: list[Document], stream: Stream, learns: bool) -> None:
        recorded = self._record(model, members) if learns else None
        reader = Reader(model, self.config, members, stream, learns=learns, recorded=recorded)
        base = digest(model) if self.traced else ""
        states = [base] * len(members)  # of each row
        for piece in reader:
            self._note_piece("score", reader, piece, states)
            nll = reader.nll(piece)
            stream.scores[:, piece.places] = -nll.detach().double()
            reader.finish(piece, nll)
            if self.traced and reader.adapters is not None and piece.going:
                states = reader.adapters.digests(base)
                self._note_piece("update", reader, piece, states)
        for document in members if learns else ():  # what was learnt is forgotten
            self._note(document.start, "update", document.start + 1, document.stop + 1, base)

    def _record(self, model: nn.Module, members: list[Document]) -> Recorded | None:
        """Where steps can be recorded, what does it: of the first group, whose rows are the most, for all."""
        config = self.config
        equal = config.lora_chunk_growth == 0 and config.lora_chunk_tokens > 1
        if not equal or not recordable(model):
            return None
        if self._recorded is None or len(members) > self._recorded.rows:
            self._recorded = None  # its memory, before there is more
            self._recorded = Recorded(model, config, len(members))
        return self._recorded

    def _distribution(self, model: nn.Module, members: list[Document], stream: Stream, row: int, target: int) -> Tensor:
        """What scores a document's target, counted from 0: the row's of the group ``members``."""
        reader = Reader(model, self.config, members, stream, learns=self.adapts)
        for piece in reader:
            if target < piece.start + piece.places.shape[1]:
                return torch.softmax(reader.logits(piece)[row, target - piece.start].double(), dim=-1).cpu()
            reader.finish(piece, reader.nll(piece))
        raise AssertionError("the pieces reach to the longest document's end")

    def _note_piece(self, kind: Literal["score", "update"], reader: Reader, piece: Piece, states: list[str]) -> None:
        """Of those documents that reach into the piece; an update: beyond it."""
        if not self.traced:
            return
        size = piece.places.shape[1]
        reach = piece.start + (size if kind == "update" else 0)
        for row, document in enumerate(each for each in reader.members if each.length > reach):
            start = document.start + piece.start + 1
            self._note(document.start, kind, start, min(start + size, document.stop + 1), states[row])

    def _note(self, key: int, kind: Literal["score", "update"], start: int, stop: int, state: str) -> None:
        if self.traced:
            shift = int(self._places[start - 1]) + 1 - start if self.config.order == "length" else 0
            self._events[key].append(Event(kind, start + shift, stop + shift, state))


def learn_phase(learner: Learner, phase: Sequence[Document], stream: Tensor) -> None:
    """One pass over the phase's documents, chunk by chunk."""
    size = learner.config.ttt_chunk_tokens
    for start in range(phase[0].start, phase[-1].stop, size):
        learner.learn(stream[start : min(start + size, phase[-1].stop) + 1])
