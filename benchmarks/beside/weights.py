"""The weights of a run of ``r1061`` under the names and in the shapes of the public script.

Both keep a matrix as (out, in), so nothing is transposed. What differs, for n layers:

    ours                                               the script's
    embed.weight                                       tok_emb.weight
    blocks.i.attention.query / output .weight          qo_bank[i], qo_bank[n + i]
    blocks.i.attention.key / value .weight             kv_bank[i], kv_bank[n + i]
    blocks.i.mlp.up / down .weight                     mlp_up_bank[i], mlp_down_bank[i]
    blocks.i.attention.query_gain                      blocks.i.attn.q_gain
    blocks.i.attention.gate.weight                     blocks.i.attn.attn_gate_w
    blocks.i.attention_scale, mlp_scale, resid_mix     blocks.i.attn_scale, mlp_scale, resid_mix
    smear.weight (k,), smear.scale ()                  smear_gate.weight (1, k), smear_lambda (1,)
    skips.weights, skips.gates                         skip_weights, skip_gates
    lanes.keep (m, 2), lanes.take (m, 2, 2)            parallel_resid_lambdas, parallel_post_lambdas
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from golf.model.weights import ModelSpec
from golf.runtime.errors import ConfigError, DataError

NEEDED = {  # of the model's parameters: what the script has one form of
    "activation": "leaky_relu2",
    "leaky_slope": 0.5,
    "rope_train_len": 0,
    "softcap_kind": "symmetric",
    "ln_scale": True,
    "resid_mix": True,
    "unet_skips": "gated",
    "skip_binding": "position",
    "parallel": "two_lane",
    "attention_gate": "sparse",
    "document_mask": True,
    "value_residual": False,
    "value_embed_dim": 0,
    "smear_gate": True,
    "smear_kind": "token",
    "bos_mask": True,
    "bigram_buckets": 0,
}
BANKS = {
    "qo_bank": ("attention.query", "attention.output"),
    "kv_bank": ("attention.key", "attention.value"),
    "mlp_up_bank": ("mlp.up",),
    "mlp_down_bank": ("mlp.down",),
}
OF_A_BLOCK = {
    "attention_scale": "attn_scale",
    "mlp_scale": "mlp_scale",
    "resid_mix": "resid_mix",
    "attention.query_gain": "attn.q_gain",
    "attention.gate.weight": "attn.attn_gate_w",
}
OF_THE_MODEL = {
    "embed.weight": "tok_emb.weight",
    "smear.weight": "smear_gate.weight",
    "smear.scale": "smear_lambda",
    "skips.weights": "skip_weights",
    "skips.gates": "skip_gates",
    "lanes.keep": "parallel_resid_lambdas",
    "lanes.take": "parallel_post_lambdas",
}
ONE_AXIS_MORE = ("smear.weight", "smear.scale")  # the script keeps a gate of one output as a matrix, a scalar as (1,)


def shape_settings(spec: ModelSpec) -> dict[str, str]:
    """The environment in which the script builds a model of the shape of ``spec``.

    Raises:
        ConfigError: it has no such model.
    """
    config = spec.config
    wrong = [f"{key} {getattr(config, key)!r}, needed {value!r}" for key, value in NEEDED.items()
             if getattr(config, key) != value]  # fmt: skip
    if spec.bos_id != 1:
        wrong.append(f"bos_id {spec.bos_id}, needed 1")
    if wrong:
        raise ConfigError(f"the script has no such model: found {'; '.join(wrong)}", hint="a run of the profile r1061")
    shape = {
        "VOCAB_SIZE": spec.vocab_size,
        "NUM_LAYERS": config.num_layers,
        "MODEL_DIM": config.dim,
        "NUM_HEADS": config.num_heads,
        "NUM_KV_HEADS": config.num_kv_heads,
        "MLP_MULT": config.mlp_ratio,
        "XSA_LAST_N": config.xsa_layers,
        "LOGIT_SOFTCAP": config.logit_softcap,
        "ROPE_BASE": config.rope_base,
        "ROPE_DIMS": config.rope_dims,
        "NUM_LOOPS": config.loop_passes - 1,
        "LOOP_START": config.loop_first,
        "LOOP_END": config.loop_last,
        "PARALLEL_START_LAYER": config.parallel_from,
        "SPARSE_ATTN_GATE_SCALE": config.gate_scale,
        "GATE_WINDOW": config.gate_inputs,
    }
    return {name: str(value) for name, value in shape.items()}


def to_script(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The script's state dict, fp32, of ours; each of our tensors is used exactly once.

    Raises:
        DataError: a tensor is missing, or has no place in the script's model.
    """
    left = {name: value.float() for name, value in state.items()}
    layers = 1 + max((int(name.split(".")[1]) for name in left if name.startswith("blocks.")), default=-1)
    try:
        found = {theirs: left.pop(ours)[None] if ours in ONE_AXIS_MORE else left.pop(ours)
                 for ours, theirs in OF_THE_MODEL.items()}  # fmt: skip
        for bank, parts in BANKS.items():
            rows = [left.pop(f"blocks.{layer}.{part}.weight") for part in parts for layer in range(layers)]
            found[bank] = torch.stack(rows)
        for layer in range(layers):
            for ours, theirs in OF_A_BLOCK.items():
                found[f"blocks.{layer}.{theirs}"] = left.pop(f"blocks.{layer}.{ours}")
    except KeyError as missing:
        raise DataError(f"weights: found no {missing.args[0]}, needed a run of the profile r1061") from None
    if left:
        raise DataError(f"weights: found {', '.join(sorted(left))}, for which the script's model has no place")
    return found
