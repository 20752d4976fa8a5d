"""Forward and backward pass of a micro-batch as a CUDA graph: recorded once a shape and phase, then replayed.

Launched one by one, kernels wait for Python (727 ms a step of ``r1061`` on an H100, 690 recorded); here a micro-batch
is one launch. Nothing is compiled but our own kernels, so this begins in seconds where ``torch.compile`` takes minutes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from golf.model.transformer import Transformer
from golf.runtime.graphs import record
from golf.train.feed import Batch, Forward


class Captured:
    """``gradients(batches)`` does what :func:`golf.train.step.accumulate` does, by replaying graphs.

    Args:
        model: whose weights get the gradients, always in the same memory; its passes and its quantisation are part of
            what is recorded.
        forward: it, as it is called.

    Attributes:
        count: graphs recorded.
    """

    def __init__(self, model: Transformer, forward: Forward) -> None:
        self._model, self._forward = model, forward
        self._params = [param for param in model.parameters() if param.requires_grad]
        self._gradients = [torch.zeros_like(param) for param in self._params]
        self._total, self._share = self._params[0].new_zeros(()), self._params[0].new_zeros(())
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Batch]] = {}
        self.count = 0

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """The mean loss over all of ``batches`` (of one size), 0-d; its gradients are the weights' then."""
        for param, gradient in zip(self._params, self._gradients, strict=True):
            param.grad = gradient
        key = self._key(batches[0])
        if key not in self._recorded:
            self._recorded[key] = self._record(batches[0])
        graph, inputs = self._recorded[key]
        torch._foreach_zero_([*self._gradients, self._total])
        self._share.fill_(1 / len(batches))
        for batch in batches:
            for own, new in zip(batch.tensors(), inputs.tensors(), strict=True):
                new.copy_(own)
            graph.replay()
        return self._total.clone()

    def _key(self, batch: Batch) -> Hashable:
        """All that a recorded graph depends on."""
        shapes = tuple(tensor.shape for tensor in batch.tensors())
        longest = None if batch.documents is None else batch.documents.longest
        return shapes, longest, self._model.passes, self._model.embed.fake_quant

    def _record(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch]:
        inputs = batch.copy()
        graph = record(lambda: self._add(inputs), self._recorded.values())
        self.count += 1
        return graph, inputs

    def _add(self, batch: Batch) -> None:
        """Add the gradients and the loss of one micro-batch to what there is."""
        loss = batch.nll(self._forward).mean() * self._share
        loss.backward()
        self._total += loss.detach()
