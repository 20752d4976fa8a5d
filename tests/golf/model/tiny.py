"""A model small enough for a test, with every weight drawn so that no zero hides a path."""

from typing import Any

import torch
from torch import Tensor

from golf.model.transformer import Transformer
from golf.params.model import Model

VOCAB, BOS = 61, 1
SMALL: dict[str, Any] = {
    "num_layers": 4, "dim": 32, "num_heads": 4, "num_kv_heads": 2, "rope_dims": 4, "mlp_ratio": 2.0,
    "xsa_layers": 2, "bigram_buckets": 37, "bigram_dim": 8,
}  # fmt: skip
EVERYTHING: dict[str, Any] = {"value_residual": True, "value_embed_dim": 6, "unet_skips": "gated"}


def tiny(seed: int = 0, *, awake: bool = True, **overrides: Any) -> Transformer:
    """A model; ``awake``: zero-initialised projections and gates get random values too."""
    torch.manual_seed(seed)
    model = Transformer(Model(**(SMALL | overrides)), VOCAB, BOS)
    if awake:
        with torch.no_grad():
            for name, param in model.named_parameters():
                if param.dim() < 2 or any(part in name for part in ("mix", "skips", "lanes")):
                    param.add_(0.3 * torch.randn_like(param))
                else:
                    param.copy_(torch.randn_like(param) * (0.3 if "embed" in name else param.shape[1] ** -0.5))
    return model


def tokens(batch: int = 2, length: int = 24, seed: int = 0) -> Tensor:
    """Random tokens, with a document border inside each window."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (batch, length), generator=generator)
    ids[:, length // 2] = BOS
    return ids
