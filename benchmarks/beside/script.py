"""The public script: where its text is changed, what is set of its environment, and how it is loaded as a module.

Its file is given by the user. To train, a changed copy runs in a process of its own; to evaluate, the text as it is
published is imported, and its functions are called as its ``main`` calls them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.beside.weights import to_script
from golf.runtime.errors import DataError, MissingInput

BATCH = 98_304  # tokens a step: the micro-batch of its 8 GPUs, of which a single GPU has one a step
FOLDER = "records/track_10min_16mb/2026-04-27_SP8192_LQER_SparseGate_BOSSmearFix_9HpStack_1.0611"
WHERE = f"github.com/openai/parameter-golf, {FOLDER}/train_gpt.py"
NAME = "record_script"
FLASH = "flash_attn_interface"  # the module of FlashAttention 3

# Of the command in the record's README, what training before quantisation and evaluation read.
DOCUMENTED = {
    "ITERATIONS": "20000",
    "WARMUP_STEPS": "20",
    "WARMDOWN_FRAC": "0.85",
    "MATRIX_LR": "0.026",
    "MIN_LR": "0.1",
    "BETA2": "0.99",
    "GRAD_CLIP_NORM": "0.3",
    "MUON_BACKEND_STEPS": "5",
    "FUSED_CE_ENABLED": "1",
    "SMEAR_GATE_ENABLED": "1",
    "SPARSE_ATTN_GATE_ENABLED": "1",
    "SPARSE_ATTN_GATE_SCALE": "0.5",
    "GATED_ATTN_QUANT_GATE": "1",
    "GATE_WINDOW": "12",
    "PHASED_TTT_PREFIX_DOCS": "2500",
    "PHASED_TTT_NUM_PHASES": "3",
    "GLOBAL_TTT_MOMENTUM": "0.9",
    "TTT_CHUNK_SIZE": "48",
    "TTT_LORA_RANK": "80",
    "TTT_BETA2": "0.99",
    "TTT_WEIGHT_DECAY": "0.5",
    "VAL_LOSS_EVERY": "0",
    "CASEOPS_ENABLED": "0",  # not as documented: no sidecar of bytes is needed, nats are what is compared
}
# To train by the clock on one GPU: the last weights and the average are scored, nothing is quantised.
TRAINING = {
    "TRAIN_BATCH_TOKENS": str(BATCH),
    "VAL_BATCH_TOKENS": str(BATCH),
    "GPTQ_RESERVE_SECONDS": "0",
    "PREQUANT_ONLY": "1",
    "TRAIN_LOG_EVERY": "250",
}
# To evaluate: its default, of which its plain score reads an eighth at a time, 65,536 targets.
EVALUATION = {"VAL_BATCH_TOKENS": "524288", "SEED": "42"}


class Replacement(NamedTuple):
    """``old`` stands ``times`` times in the script and becomes ``new``."""

    old: str
    new: str
    times: int
    why: str


REPLACEMENTS = (
    Replacement("8 // world_size", "1", 1, "one micro-batch a step, not the 8 of the record's GPUs"),
    Replacement("bucket_size=64", "bucket_size=320", 2, "room for more documents: one shape of them in a run"),
    Replacement("range(1, 5)", "range(1, 2)", 1, "warms up that one shape, not four: minutes of compiling"),
    Replacement("val_data.val_bytes[raw_start + 1 : raw_end].to(", "torch.ones_like(y).to(", 1,
                "read even where there is no sidecar, and None then; its bpb means nothing, its nats do"),
)  # fmt: skip


def read(path: Path) -> str:
    """The script's text.

    Raises:
        MissingInput: there is no such file.
    """
    if not path.is_file():
        raise MissingInput(f"{path}: no such file", hint=f"the script of {WHERE}")
    return path.read_text(encoding="utf-8")


def patched(text: str, where: str = "the script") -> str:
    """``text`` for a single GPU.

    Raises:
        DataError: what is to be replaced is not there, or not as often as in the published text.
    """
    for old, new, times, why in REPLACEMENTS:
        if text.count(old) != times:
            raise DataError(f"{where}: found {old!r} {text.count(old)} times, needed {times} ({why})",
                            hint=f"the script of {WHERE}")  # fmt: skip
        text = text.replace(old, new)
    return text


def environment(text: str, settings: Mapping[str, str], around: Mapping[str, str]) -> dict[str, str]:
    """``around`` without all that the script would read of it, with the documented settings, and ``settings``."""
    read_there = set(re.findall(r"environ\.get\(\s*\"(\w+)\"", text))
    return {name: value for name, value in around.items() if name not in read_there} | DOCUMENTED | dict(settings)


def require_flash() -> None:
    """Refuse a machine without FlashAttention 3, which the script imports by name.

    Raises:
        MissingInput: it cannot be imported.
    """
    if importlib.util.find_spec(FLASH) is None:
        raise MissingInput(
            f"{FLASH}: no such module; the script needs FlashAttention 3", hint="docs/flash-attention.md"
        )


def load(path: Path, settings: Mapping[str, str], device: torch.device) -> types.ModuleType:
    """The script as a module, its text unchanged; it reads its environment now.

    On a CPU its attention and its fused MLP are plain PyTorch, and its fused loss is off by its own switch.
    """
    text, on_cpu = read(path), device.type == "cpu"
    plain_loss = {"FUSED_CE_ENABLED": "0"} if on_cpu else {}
    wanted = environment(text, {**settings, **plain_loss}, os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    if on_cpu:
        sys.modules[FLASH] = plain_flash()
    else:
        require_flash()
        sys.modules[FLASH] = outputs_alone()
    made = importlib.util.spec_from_file_location(NAME, path)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[NAME] = module
    made.loader.exec_module(module)
    module.BOS_ID = 1  # type: ignore[attr-defined]  # set by its evaluation; before, its smear gate crosses documents
    if on_cpu:
        module.FusedLeakyReLUSquareMLP = plain_mlp  # type: ignore[attr-defined]
    return module


def build(script: Any, state: Mapping[str, Tensor], device: torch.device) -> tuple[Any, Any]:
    """Its settings, and its model of our weights ``state`` with the loop on; on a CPU all of it in fp32."""
    settings = script.Hyperparameters()
    model = script.GPT(settings).to(device)
    if device.type != "cpu":
        model = model.bfloat16()
        script.restore_fp32_params(model)
    model.load_state_dict(to_script(state), strict=True)
    model.looping_active = settings.num_loops > 0
    return settings, model


def outputs_alone() -> types.ModuleType:
    """FlashAttention 3 whose functions return the output alone; some builds return the log-sum-exp too.

    ``torch.compile`` looks up what else they read by the module's name, so that it has to have all of it.
    """
    real: Any = importlib.import_module(FLASH)

    def first(call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            found = call(*args, **kwargs)
            return found[0] if isinstance(found, tuple) else found

        return run

    module = stand_in(first(real.flash_attn_func), first(real.flash_attn_varlen_func))
    vars(module).update({name: value for name, value in vars(real).items() if name not in vars(module)})
    return module


def plain_flash() -> types.ModuleType:
    """FlashAttention 3 in plain PyTorch, for a CPU."""

    def dense(*heads: Tensor, causal: bool = True) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in heads)
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True).transpose(1, 2)

    def varlen(q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, causal: bool = True, **_: Any) -> Tensor:
        sizes = cu_seqlens_q.diff().tolist()
        rows = zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        return torch.cat([dense(*(x[None] for x in row), causal=causal)[0] for row in rows if len(row[0])])

    return stand_in(dense, varlen)


def stand_in(dense: Any, varlen: Any) -> types.ModuleType:
    module = types.ModuleType(FLASH)
    module.flash_attn_func, module.flash_attn_varlen_func = dense, varlen  # type: ignore[attr-defined]
    return module


def plain_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Its fused MLP: x (…, D), up (H, D), down (D, H) -> (…, D)."""
    return F.linear(F.leaky_relu(F.linear(x, up), 0.5).square(), down)
