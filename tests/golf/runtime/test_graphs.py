"""What is said when a graph can't be recorded. No GPU is needed: torch's own part is stood in for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from golf.runtime import graphs
from golf.runtime.errors import ConfigError


@contextmanager
def stream(_: object) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that fails leaves a graph that can't be closed either, as CUDA's does."""

    @contextmanager
    def recording(*_: object, **__: object) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("capture_end: the capture was invalidated")

    stand_in = SimpleNamespace(wait_stream=lambda _: None)
    for name, value in {
        "CUDAGraph": object, "Stream": lambda: stand_in, "current_stream": lambda: stand_in,
        "stream": stream, "graph": recording,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)


def failing(error: Exception) -> Callable[[], None]:
    """Work that runs once and fails when it is recorded."""
    runs = iter((None, error))

    def work() -> None:
        if found := next(runs):
            raise found

    return work


def test_memory_that_runs_out_is_no_parameter_of_graphs() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"):
        graphs.record(failing(torch.OutOfMemoryError("tried to allocate 2 GiB")))


def test_memory_that_runs_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: stream(None))
    with pytest.raises(torch.OutOfMemoryError):
        graphs.record(failing(torch.OutOfMemoryError("tried to allocate 2 GiB")))


def test_what_a_graph_cannot_hold_names_the_way_out_of_both_users() -> None:
    with pytest.raises(ConfigError, match="CUDA graph: found capture_end") as caught:
        graphs.record(failing(ValueError("a value was read")))
    assert str(caught.value).endswith("hardware.graphs=off, or -S hardware.device=cpu for GPTQ")
