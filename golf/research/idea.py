"""What every idea is: a size, a training loss, a code length for each token; and the parts that most of them share.

An idea is one module of this package with one class. It is held against :class:`Baseline`, the plain transformer of
:mod:`golf.model`, by ``python -m benchmarks.research``: same text, batch, steps and optimizer.

How a parameter is optimised and how many bits it takes in the artifact follows from the module that holds it:
``golf.model.linear.Linear`` is a matrix (Muon), ``golf.model.linear.Embedding`` a table (AdamW), anything else a
control (AdamW, 16 bits). Weights and code are fp32; on a GPU the caller wraps loss and nll in bf16 autocast.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from golf.model.block import Block
from golf.model.heads import Shared
from golf.model.kernels.mix_norm import Relay
from golf.model.linear import Embedding, Linear, TiedHead
from golf.model.loss import softcap, softcapped_nll
from golf.model.norm import rms_norm
from golf.model.residual import Residual
from golf.model.rope import rotation
from golf.model.transformer import Transformer
from golf.params.model import Model
from golf.runtime.errors import ConfigError

COMMAND = "python -m benchmarks.research"
ROTATED = 16  # dimensions of a head that carry the position, where the head is that wide


@dataclass(frozen=True)
class Size:
    """How large an idea is built: the size of the baseline, which each idea spends in its own way.

    Raises:
        ConfigError: a number is out of range.
    """

    dim: int  # D, width of the residual stream
    layers: int  # L, depth of the baseline
    heads: int  # H, query heads of width D / H
    kv_heads: int  # G, key/value heads; a divisor of H
    mlp_ratio: float  # hidden width of an MLP over D
    length: int  # T, tokens of a training window

    def __post_init__(self) -> None:
        for key in ("dim", "layers", "heads", "kv_heads"):
            self._require(getattr(self, key) >= 1, key, "at least 1")
        self._require(self.dim % (2 * self.heads) == 0, "dim", f"a multiple of 2 x heads ({2 * self.heads})")
        self._require(self.heads % self.kv_heads == 0, "kv_heads", f"a divisor of heads ({self.heads})")
        self._require(self.mlp_ratio > 0, "mlp_ratio", "above 0")
        self._require(self.length >= 2, "length", "at least 2 tokens")

    def _require(self, condition: bool, key: str, needed: str) -> None:
        if not condition:
            found = getattr(self, key)
            raise ConfigError(f"size.{key}: found {found!r}, needed {needed}", hint=f"{COMMAND} --size small")

    def require_layers(self, least: int, idea: str, why: str) -> None:
        """Refuse a depth that ``idea`` cannot divide; ``why`` names its parts.

        Raises:
            ConfigError: fewer than ``least`` layers.
        """
        if self.layers < least:
            raise ConfigError(
                f"{idea}: size.layers: found {self.layers}, needed {least} or more: {why}",
                hint=f"{COMMAND} --size small",
            )

    def model(self, **switches: Any) -> Model:
        """The plain transformer of this size, without the records' additions; ``switches`` are keys of ``model.*``."""
        plain: dict[str, Any] = {
            "num_layers": self.layers,
            "dim": self.dim,
            "num_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "mlp_ratio": self.mlp_ratio,
            "rope_dims": min(ROTATED, self.dim // self.heads // 2 * 2),
            "ln_scale": False,
            "resid_mix": False,
            "unet_skips": "none",
            "xsa_layers": 0,
            "value_embed_layers": 0,
            "smear_gate": False,
            "gate_inputs": 1,
            "bigram_buckets": 0,
        }
        return Model(**(plain | switches))


class Idea(nn.Module, ABC):
    """A language model over a vocabulary of V tokens. A subclass takes (size, vocab_size) and gives at least ``nll``.

    Random numbers, of the weights or of a loss, come from torch's global generator.

    Attributes:
        exact: whether ``nll`` is a code length: each target's is -log of a distribution that depends on what stands
            before it alone. Otherwise it is random, and its sum over a row bounds the code length of the row from
            above in expectation.
    """

    exact: ClassVar[bool] = True

    def __init__(self, size: Size, vocab_size: int) -> None:
        super().__init__()
        self.size, self.vocab_size = size, vocab_size

    @abstractmethod
    def nll(self, tokens: Tensor) -> Tensor:
        """tokens (B, T + 1) int64 -> (B, T) fp32: nats of each of ``tokens[:, 1:]``."""

    def loss(self, tokens: Tensor) -> Tensor:
        """tokens (B, T + 1) int64 -> 0-d fp32: what training minimises, nats a token and any auxiliary terms."""
        return self.nll(tokens).mean()

    def shipped(self) -> dict[str, nn.Parameter]:
        """The parameters that the artifact holds, by name: all but those that only the training loss reads."""
        return dict(self.named_parameters())


class Baseline(Idea):
    """The plain transformer: what every idea has to beat."""

    def __init__(self, size: Size, vocab_size: int) -> None:
        super().__init__(size, vocab_size)
        self.transformer = Transformer(size.model(), vocab_size)

    def nll(self, tokens: Tensor) -> Tensor:
        """See :meth:`Idea.nll`."""
        return self.transformer(tokens[:, :-1], tokens[:, 1:])


class Ends(nn.Module):
    """Both ends of the baseline, for ideas with layers of their own: the embedding, and the tied, softcapped head."""

    def __init__(self, config: Model, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.table = Embedding(vocab_size, config.dim)
        self.head = TiedHead()
        nn.init.normal_(self.table.weight, std=config.embed_init_std)

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) int64 -> (B, T, D): their normalised embedding."""
        return rms_norm(self.table(tokens))

    def shared(self, x0: Tensor) -> Shared:
        """What a layer reads besides the stream; ``x0`` (B, T, D) is the embedding."""
        rope = rotation(x0.shape[1], self.config.rope_dims, self.config.rope_base, x0.device, x0.dtype)
        return Shared(x0=Relay(x0), rope=rope, value_embed=None, documents=None, adapters=None)

    def raw_logits(self, x: Tensor) -> Tensor:
        """The stream after the last layer (B, T, D) -> (B, T, V) fp32, before the cap."""
        return self.head(rms_norm(x), self.table.seen_weight()).float()

    def logits(self, x: Tensor) -> Tensor:
        """The stream after the last layer (B, T, D) -> (B, T, V) fp32."""
        return softcap(self.raw_logits(x), self.config.logit_softcap)

    def nll(self, x: Tensor, targets: Tensor) -> Tensor:
        """The stream after the last layer (B, T, D) and targets (B, T) int64 -> their nats (B, T) fp32."""
        return softcapped_nll(self.raw_logits(x), targets, self.config.logit_softcap)


def run(blocks: Iterable[nn.Module], x: Tensor, shared: Shared) -> Tensor:
    """The stream x (B, T, D) through layers of the baseline; ``shared`` is :meth:`Ends.shared`."""
    stream = Residual.of(x)
    for block in blocks:
        stream, _ = block(stream, None, shared)
    return stream.added(kernels=False)


def layers_of(config: Model, count: int) -> nn.ModuleList:
    """``count`` layers of the baseline, all alike: its switches are off."""
    return nn.ModuleList(Block(config, 0, "sdpa") for _ in range(count))


@torch.no_grad()
def draw_weights(module: nn.Module) -> None:
    """Draw every ``Linear`` inside as the baseline does: orthogonal, but zero where a layer writes to the stream."""
    for child in module.modules():
        if isinstance(child, Linear):
            nn.init.orthogonal_(child.weight)
    for child in module.modules():
        if isinstance(child, Block):
            nn.init.zeros_(child.attention.output.weight)
            nn.init.zeros_(child.mlp.down.weight)


IDEAS: Mapping[str, str] = MappingProxyType(
    {
        "baseline": "golf.research.idea:Baseline",
        "universal": "golf.research.universal:UniversalTransformer",
        "random_maps": "golf.research.random_maps:RandomMaps",
        "jepa": "golf.research.jepa:LatentPrediction",
        "chunking": "golf.research.chunking:DynamicChunking",
        "state_space": "golf.research.state_space:StateSpaceHybrid",
        "diffusion": "golf.research.diffusion:MaskedDiffusion",
    }
)


def find_idea(name: str) -> str:
    """``module:class`` of an idea; nothing is imported.

    Raises:
        ConfigError: there is no idea of that name.
    """
    if name not in IDEAS:
        raise ConfigError(
            f"idea: found {name!r}, needed one of {', '.join(IDEAS)}", hint=f"{COMMAND} --ideas baseline,universal"
        )
    return IDEAS[name]


def build_idea(name: str, size: Size, vocab_size: int) -> Idea:
    """A fresh idea of ``vocab_size`` tokens; its module is imported here and now.

    Raises:
        ConfigError: there is no idea of that name.
    """
    module, _, kind = find_idea(name).partition(":")
    return getattr(importlib.import_module(module), kind)(size, vocab_size)
