"""Documents by falling length: the same scores in their places, and an audit that says what was done."""

import dataclasses

import pytest
import torch

from golf.params.audit import Audit
from golf.params.eval import Eval
from golf.runtime.errors import ConfigError
from golf.scoring.audit import audit_evaluation
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.documents import by_length, split
from golf.scoring.evaluator import make_scorer
from tests.golf.model.tiny import BOS, VOCAB, tiny
from tests.golf.scoring.test_document_scorer import CONFIG, LENGTHS, stream

PHASED = dataclasses.replace(CONFIG, phase_tokens=100, order="length")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("lengths", [LENGTHS, [5], [3, 9], [1, 1, 1]])
def test_the_longest_come_first_and_the_last_stays(lengths: list[int]) -> None:
    tokens = stream(lengths)
    places = by_length(tokens, BOS)
    assert sorted(places.tolist()) == list(range(tokens.numel()))
    found = [document.length for document in split(tokens[places], BOS)]
    *others, last = (document.length for document in split(tokens, BOS))
    assert found == [*sorted(others, reverse=True), last]


def test_documents_that_do_not_know_of_each_other_score_the_same() -> None:
    model, tokens = tiny(), stream(LENGTHS)
    found, needed = (DocumentScorer(model, config, adapts=False).score(tokens) for config in (PHASED, CONFIG))
    torch.testing.assert_close(found, needed, rtol=0, atol=1e-4)


def test_phases_take_the_longest_first() -> None:
    model, tokens = tiny(), stream(LENGTHS)
    scorer = make_scorer(model, PHASED, traced=True)
    scores = scorer.score(tokens)
    alone = DocumentScorer(model, CONFIG).score(tokens)
    longest = split(tokens, BOS)[5]  # of the first phase: nothing was learnt before it
    torch.testing.assert_close(scores[longest.start : longest.stop], alone[longest.start : longest.stop])
    assert float((scores - alone)[:19].abs().min()) > 0  # the first document comes after it
    for position in (1, 19, longest.start + 1, longest.stop, tokens.numel() - 1):
        p = scorer.distribution(tokens, position)
        assert p.shape == (VOCAB,)
        assert float(p[tokens[position]].log()) == pytest.approx(float(scores[position - 1]), abs=1e-4)


def test_the_trace_tells_the_real_places_in_the_order_of_the_work() -> None:
    tokens = stream(LENGTHS)
    scorer = make_scorer(tiny(), PHASED, traced=True)
    scorer.score(tokens)
    scored: list[int] = []
    for event in scorer.trace:
        places = range(event.start, event.stop)
        if event.kind == "score":
            scored += places
        else:
            assert set(places) <= set(scored)
    assert sorted(scored) == list(range(1, tokens.numel()))
    longest = split(tokens, BOS)[5]
    assert scored[0] == longest.start + 1


@pytest.mark.parametrize(("order", "passed"), [("file", True), ("length", False)])
def test_the_audit_names_it(order: str, passed: bool) -> None:
    class Ones:
        def count(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.ones(tokens.numel() - 1, dtype=torch.int64)

    config = dataclasses.replace(PHASED, order=order)
    report = audit_evaluation(tiny(), stream(LENGTHS * 2), Ones(), config, Audit(tokens=400, positions=2), bos_id=BOS)
    found = report["checks"]["document-order"]
    assert found["passed"] is passed
    assert ("eval.order=length" in found["evidence"]) is not passed
    assert report["checks"]["once"]["passed"] is passed  # each once, but not from left to right
    for name in ("normalised", "target", "score-first", "coverage"):
        assert report["checks"][name]["passed"], report["checks"][name]


@pytest.mark.parametrize(
    "overrides", [{"order": "random"}, {"order": "length", "phase_tokens": 0}, {"order": "length", "tilt": True}]
)
def test_an_order_that_means_nothing_is_refused(overrides: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"eval\.order"):
        Eval(**{**dataclasses.asdict(PHASED), **overrides})  # type: ignore[arg-type]
