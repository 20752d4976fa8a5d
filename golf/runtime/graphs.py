"""CUDA graphs: work on a GPU that is recorded once and launched whole, where each kernel would wait for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from golf.runtime.errors import ConfigError


def record(work: Callable[[], object], others: Iterable[Sequence[Any]] = ()) -> torch.cuda.CUDAGraph:
    """``work`` as a graph; it is run once before.

    Args:
        work: what is not to be waited for within.
        others: each a graph first; they share their memory, so that one at a time is replayed.

    Raises:
        ConfigError: it does what a graph cannot hold.
        torch.OutOfMemoryError: memory ran out; whoever asked for it knows the parameter that helps.
    """
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # once as it is: what is compiled or chosen at the first call waits for the GPU
        work()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.empty_cache()  # what that took is not the graph's
    try:
        # The thread that reads ahead pins memory, and NCCL's asks after its work; neither belongs to the graph.
        pool = next((other.pool() for other, *_ in others), None)
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
    except RuntimeError as error:
        for cause in (error, error.__context__):  # the second is what ended a recording that could not be closed then
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
        raise ConfigError(
            f"CUDA graph: found {error}, needed operations that it can record",
            hint="dvc exp run -S hardware.graphs=off, or -S hardware.device=cpu for GPTQ",
        ) from error
    return graph
