"""Weights that the challenge's baseline script published, as a model of ours.

Its file is ``zlib(torch.save(…))`` of int8 rows with one fp16 scale each, and of small tensors as they are
(``int8_clean_per_row_v1``). The script's model is this house's transformer with everything later switched off.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf.model.weights import ModelSpec
from golf.params.model import Model
from golf.runtime.errors import DataError, FairwayError, MissingInput

FORMAT = "int8_clean_per_row_v1"
RENAMED = (
    ("tok_emb.", "embed."),
    ("skip_weights", "skips.weights"),
    (".attn.c_q.", ".attention.query."),
    (".attn.c_k.", ".attention.key."),
    (".attn.c_v.", ".attention.value."),
    (".attn.proj.", ".attention.output."),
    (".attn.q_gain", ".attention.query_gain"),
    (".attn_scale", ".attention_scale"),
    (".mlp.fc.", ".mlp.up."),
    (".mlp.proj.", ".mlp.down."),
)


def load_published(path: Path | str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The model in a file of the baseline script, fp32, by the names of :class:`golf.model.transformer.Transformer`.

    Raises:
        MissingInput: there is no such file.
        DataError: it is damaged, or not of :data:`FORMAT`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInput(f"{path}: no such file")
    try:
        content = torch.load(io.BytesIO(zlib.decompress(path.read_bytes())), map_location="cpu", weights_only=True)
    except Exception as error:  # of zlib, of torch and of the reader beneath it, which has a class of its own
        raise DataError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    found = content.get("__quant_format__") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise DataError(f"{path}: found format {found!r}, needed {FORMAT!r}")
    try:
        state = _state(content)
        return _spec(state), state
    except (KeyError, IndexError, AttributeError, ValueError, RuntimeError, FairwayError) as error:
        raise DataError(f"{path}: not the baseline's model: {error}") from None


def _state(content: dict[str, Any]) -> dict[str, Tensor]:
    """fp32, each matrix rounded to the dtype it had in training, as the script does: bf16 for the embedding."""
    dtypes, state = content.get("dtypes", {}), {}
    for name, codes in content["quantized"].items():
        value = codes.float() * content["scales"][name].float()[:, None]
        state[_renamed(name)] = value.to(getattr(torch, dtypes.get(name, "float32"))).float()
    return state | {_renamed(name): value.float() for name, value in content["passthrough"].items()}


def _renamed(name: str) -> str:
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name


def _spec(state: dict[str, Tensor]) -> ModelSpec:
    """The shape that the tensors have; the rest is as that script has it."""
    vocab_size, dim = state["embed.weight"].shape
    heads = state["blocks.0.attention.query_gain"].numel()
    config = Model(
        num_layers=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        dim=dim,
        num_heads=heads,
        num_kv_heads=state["blocks.0.attention.key.weight"].shape[0] * heads // dim,
        mlp_ratio=state["blocks.0.mlp.up.weight"].shape[0] / dim,
        activation="relu2",
        rope_dims=dim // heads,
        ln_scale=False,
        xsa_layers=0,
        smear_gate=False,
        bigram_buckets=0,
        gate_inputs=min(12, dim),
    )
    return ModelSpec(config, vocab_size)
