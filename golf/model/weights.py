"""Weights by name: their groups, their files (safetensors beside model.json), and the model built from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from golf.model.linear import Embedding, Linear
from golf.model.transformer import Transformer
from golf.params.base import from_dict, to_dict
from golf.params.model import Model
from golf.runtime.errors import DataError, FairwayError, MissingInput
from golf.runtime.files import read_json, write_bytes, write_json

FORMAT = 1
Group = Literal["matrix", "embed", "control"]


@dataclass(frozen=True)
class ModelSpec:
    """All that a model is made of except its weights."""

    config: Model
    vocab_size: int
    bos_id: int = 1


def tensor_groups(model: Transformer) -> dict[str, Group]:
    """For every tensor of ``state_dict``: matrix (``Linear``), embed (tables) or control (gains, gates, mixes)."""
    groups: dict[str, Group] = dict.fromkeys(model.state_dict(), "control")
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            groups[f"{name}.weight"] = "matrix"
        elif isinstance(module, Embedding):
            groups[f"{name}.weight"] = "embed"
    return groups


def spec_to_dict(spec: ModelSpec) -> dict[str, object]:
    """The content of model.json."""
    return {"format": FORMAT, "model": to_dict(spec.config), "vocab_size": spec.vocab_size, "bos_id": spec.bos_id}


def spec_from_dict(content: object, where: str) -> ModelSpec:
    """The inverse of :func:`spec_to_dict`; ``where`` names the source in the error.

    Raises:
        DataError: it is not the description of a model, or of another format.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{where}: found format {found!r}, needed {FORMAT}")
    model, vocab_size, bos_id = content.get("model"), content.get("vocab_size"), content.get("bos_id")
    if not isinstance(model, dict) or type(vocab_size) is not int or type(bos_id) is not int:
        raise DataError(f"{where}: needed a mapping `model` and integers `vocab_size` and `bos_id`")
    if not 0 <= bos_id < vocab_size:
        raise DataError(f"{where}: found bos_id {bos_id}, needed 0 to {vocab_size - 1}")
    try:
        return ModelSpec(from_dict(Model, model, where), vocab_size, bos_id)
    except FairwayError as error:
        text = str(error)
        raise DataError(text if text.startswith(where) else f"{where}: {text}") from None


def save_model(
    folder: Path | str, name: str, state: Mapping[str, Tensor], config: Model, vocab_size: int, bos_id: int
) -> None:
    """Write ``folder/name.safetensors`` and ``folder/model.json``, each whole or not at all."""
    from safetensors.torch import save

    folder = Path(folder)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in sorted(state.items())}
    write_bytes(folder / f"{name}.safetensors", save(tensors))
    write_json(folder / "model.json", spec_to_dict(ModelSpec(config, vocab_size, bos_id)))


def load_spec(folder: Path | str) -> ModelSpec:
    """Read ``folder/model.json``.

    Raises:
        MissingInput: there is no such file.
        DataError: it is not the description of a model.
    """
    path = Path(folder) / "model.json"
    if not path.is_file():
        raise MissingInput(f"{path}: no such file; it describes the weights beside it", hint="dvc repro")
    try:
        content = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    return spec_from_dict(content, str(path))


def load_state(folder: Path | str, name: str) -> dict[str, Tensor]:
    """Read ``folder/name.safetensors`` onto the CPU.

    Raises:
        MissingInput: there is no such file.
        DataError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        raise MissingInput(f"{path}: no such file", hint="dvc repro")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: {error}") from None


def build(
    spec: ModelSpec,
    state: Mapping[str, Tensor] | None = None,
    attention: str = "sdpa",
    device: torch.device | str = "cpu",
) -> Transformer:
    """The model on ``device``, computing in bf16 on a GPU and in fp32 elsewhere.

    Args:
        spec: its shape.
        state: its weights, copied; None draws them, on the CPU, so that a seed gives the same on every device.
        attention: an implementation chosen by :func:`golf.model.attention.choose_backend`.
        device: where it goes.

    Raises:
        DataError: ``state`` does not fit ``spec``; each wrong name or shape is told.
    """
    device = torch.device(device)
    if state is None:
        model = Transformer(spec.config, spec.vocab_size, spec.bos_id, attention).to(device)
    else:
        with torch.device("meta"):
            model = Transformer(spec.config, spec.vocab_size, spec.bos_id, attention)
        check_shapes("weights do not fit model.json", shapes(model.state_dict()), state)
        copies = {name: value.detach().to(device, torch.float32, copy=True) for name, value in state.items()}
        model.load_state_dict(copies, assign=True)
    model.compute_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return model


def check_shapes(what: str, needed: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    """Refuse a ``state`` of other names or shapes than ``needed``, each told.

    Raises:
        DataError: there is one; ``what`` it begins with.
    """
    found = shapes(state)
    wrong = [f"{name} missing" for name in needed if name not in found]
    wrong += [
        f"{name} is {shape}, needed {tuple(needed[name])}" if name in needed else f"{name} unknown"
        for name, shape in found.items()
        if shape != needed.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(f"{what}: {'; '.join(wrong[:3])}{more}")


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of each tensor, by name."""
    return {name: tuple(value.shape) for name, value in state.items()}
