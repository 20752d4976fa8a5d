"""A quantised model: integer codes and small steps for what was rounded, fp16 for the rest. Nothing is fp32.

As arrays, a quantised tensor ``NAME`` is ``NAME.codes`` (int8), ``NAME.steps`` (fp16, or uint8 on the logarithmic grid)
and, on that grid, ``NAME.columns`` (int8 exponents, absent where all are 0); any other is ``NAME`` (fp16). The metadata
is model.json's content, the widths, and ``trellis``, the number of its states, where the codes are symbols of one.
The codec stores exactly those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.model.weights import ModelSpec, spec_from_dict, spec_to_dict
from golf.quant.grid import LARGEST_STEP, max_code
from golf.quant.steps import factors_of, steps_of
from golf.quant.stored import DESCRIPTION, WEIGHTS, read_arrays
from golf.quant.trellis import check_states, levels
from golf.runtime.errors import ConfigError, DataError
from golf.runtime.files import whole_file, write_json

CODES, STEPS, COLUMNS = ".codes", ".steps", ".columns"


@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix (R, C): the level of a weight times the step of its row, times the factor of its column if it has one.

    The level is the code, or with a trellis half of what the code stands for.

    Raises:
        ConfigError: ``bits`` is not 2 to 8.
        DataError: the codes, the steps and the width do not fit each other.
    """

    codes: Tensor  # int8 (R, C), within ±(2^(bits-1) - 1), with columns ±127
    steps: Tensor  # fp16 (R,), with columns uint8 (R,): see golf.quant.steps
    bits: int
    columns: Tensor | None = None  # int8 (C,)
    trellis: int = 0  # states; 0: none

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if self.codes.dtype != torch.int8 or self.codes.dim() != 2:
            raise DataError(f"codes: found {self.codes.dtype} {tuple(self.codes.shape)}, needed int8 (rows, columns)")
        rows, columns = self.codes.shape
        kind = "float16" if self.columns is None else "uint8"
        if self.steps.dtype != getattr(torch, kind) or self.steps.shape != (rows,):
            raise DataError(f"steps: found {self.steps.dtype} {tuple(self.steps.shape)}, needed {kind} ({rows},)")
        if self.columns is not None and (self.columns.dtype != torch.int8 or self.columns.shape != (columns,)):
            found = f"{self.columns.dtype} {tuple(self.columns.shape)}"
            raise DataError(f"columns: found {found}, needed int8 ({columns},)")
        limit = max_code(self.bits) if self.columns is None else 127
        if self.codes.numel():
            low, high = (int(extreme) for extreme in torch.aminmax(self.codes))
            if low < -limit or high > limit:
                raise DataError(f"codes: found {low} to {high}, needed ±{limit} for {self.bits} bits")

    def dequantize(self) -> Tensor:
        """(R, C), fp32 and exact but for one rounding: a level has up to 9 bits, a row's step 11 or 8, a factor 8."""
        level = self.codes.float()
        if self.trellis:
            level = torch.from_numpy(levels(self.codes.numpy(), self.trellis)).float() / 2
        if self.columns is None:
            return level * self.steps.float()[:, None]
        return level * (steps_of(self.steps)[:, None] * factors_of(self.columns))

    @property
    def clipped(self) -> int:
        """How many codes lie at the end of the grid."""
        return int((self.codes.abs() == (max_code(self.bits) if self.columns is None else 127)).sum())


@dataclass(frozen=True)
class QuantizedModel:
    """Every tensor of the model's ``state_dict``."""

    spec: ModelSpec
    tensors: dict[str, QuantizedTensor | Tensor]  # a plain tensor is fp16


def check_bits(bits: int) -> None:
    """Refuse a width that int8 codes cannot hold.

    Raises:
        ConfigError: not 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise ConfigError(f"width: found {bits} bits, needed 2 to 8", hint="dvc exp run -S quant.bits=6")


def check_finite(name: str, tensor: Tensor, *, hint: str = "a run that does not diverge: see reports/curves") -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: with the number and the place of the first.
    """
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return
    place = tuple(int(index) for index in (~finite).nonzero()[0])
    raise DataError(f"{name}: {int((~finite).sum()):,} values NaN or infinite, the first at {place}", hint=hint)


def store_half(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` as fp16 on the CPU.

    Raises:
        DataError: a value is NaN, infinite or beyond ±65,504.
    """
    check_finite(name, tensor)
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if largest > LARGEST_STEP:
        raise DataError(f"{name}: found a value of magnitude {largest:g}, needed at most 65504 (stored as fp16)")
    return tensor.detach().to("cpu", torch.float16).contiguous()


def to_arrays(model: QuantizedModel) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The model as JSON-able metadata and arrays of 8 and 16 bits, in the order of their names.

    Raises:
        DataError: its tensors have different trellises.
    """
    arrays: dict[str, np.ndarray] = {}
    bits: dict[str, int] = {}
    trellis: set[int] = set()
    for name, tensor in sorted(model.tensors.items()):
        if isinstance(tensor, QuantizedTensor):
            arrays[name + CODES] = tensor.codes.contiguous().numpy()
            arrays[name + STEPS] = tensor.steps.contiguous().numpy()
            bits[name] = tensor.bits
            trellis.add(tensor.trellis)
            if tensor.columns is not None and tensor.columns.any():
                arrays[name + COLUMNS] = tensor.columns.contiguous().numpy()
        else:
            arrays[name] = tensor.contiguous().numpy()
    usual = Counter(bits.values()).most_common(1)[0][0] if bits else 8
    unusual = {name: width for name, width in bits.items() if width != usual}
    metadata = {**spec_to_dict(model.spec), "bits": usual, "bits_of": unusual}
    if len(trellis) > 1:
        raise DataError(f"quantised model: found trellises of {sorted(trellis)} states, needed one for all tensors")
    return metadata | ({"trellis": states} if (states := max(trellis, default=0)) else {}), arrays


def from_arrays(
    metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str = "artifact"
) -> QuantizedModel:
    """The inverse of :func:`to_arrays`; codes keep the memory of their array if it can be written to.

    Raises:
        DataError: an array is missing, unknown, of another dtype or shape, or holds what no quantiser writes.
    """
    spec = spec_from_dict(dict(metadata), where)
    usual, unusual = metadata.get("bits"), metadata.get("bits_of")
    if type(usual) is not int or not isinstance(unusual, dict):
        raise DataError(f"{where}: found bits {usual!r} and bits_of {unusual!r}, needed an integer and a mapping")
    states = metadata.get("trellis", 0)
    check_states(states, where)
    tensors: dict[str, QuantizedTensor | Tensor] = {}
    for key, array in arrays.items():
        name, ending = key.rpartition(".")[0], key[key.rfind(".") :]
        if ending in (STEPS, COLUMNS):
            if name + CODES not in arrays:
                raise DataError(f"{where}: {key} without its codes")
        elif ending == CODES:
            if name + STEPS not in arrays:
                raise DataError(f"{where}: {key} without its steps")
            parts = (array, arrays[name + STEPS], arrays.get(name + COLUMNS))
            tensors[name] = _matrix(f"{where}: {name}", *parts, unusual.get(name, usual), states)
        else:
            tensors[key] = _half(f"{where}: {key}", array)
    strangers = sorted(name for name in unusual if not isinstance(tensors.get(name), QuantizedTensor))
    if strangers:
        raise DataError(f"{where}: a width is given for {strangers[0]}, which is not among the codes")
    return QuantizedModel(spec, tensors)


def dequantize_model(model: QuantizedModel) -> dict[str, Tensor]:
    """The fp32 weights that the quantised model stands for, by their names in ``state_dict``."""
    return {
        name: tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor.float()
        for name, tensor in model.tensors.items()
    }


def save(model: QuantizedModel, folder: Path | str) -> None:
    """Write both files of :mod:`golf.quant.stored` to ``folder``, each whole or not at all."""
    from safetensors.numpy import save_file

    metadata, arrays = to_arrays(model)
    with whole_file(Path(folder) / WEIGHTS) as temporary:
        save_file(arrays, temporary)
    write_json(Path(folder) / DESCRIPTION, metadata)


def load(folder: Path | str) -> QuantizedModel:
    """Read what :func:`save` wrote.

    Raises:
        MissingInput: a file is missing.
        DataError: a file is damaged, or not a quantised model.
    """
    metadata, arrays = read_arrays(folder)
    return from_arrays(metadata, arrays, str(Path(folder) / WEIGHTS))


def _matrix(
    where: str, codes: np.ndarray, steps: np.ndarray, columns: np.ndarray | None, bits: Any, states: int
) -> QuantizedTensor:
    if codes.dtype != np.int8:
        raise DataError(f"{where}: found codes of {codes.dtype}, needed int8")
    if type(bits) is not int:
        raise DataError(f"{where}: found width {bits!r}, needed an integer")
    logarithmic = steps.dtype == np.uint8
    rows = torch.from_numpy(steps.copy()) if logarithmic else _half(where, steps)
    exponents = None
    if logarithmic or columns is not None:
        exponents = torch.from_numpy(np.zeros(codes.shape[-1:], np.int8) if columns is None else columns.copy())
    try:
        own = codes if codes.flags.carray else codes.copy()
        return QuantizedTensor(torch.from_numpy(own), rows, bits, exponents, states)
    except (ConfigError, DataError) as error:
        raise DataError(f"{where}: {error}") from None


def _half(where: str, array: np.ndarray) -> Tensor:
    if array.dtype != np.float16:
        raise DataError(f"{where}: found {array.dtype}, needed float16")
    tensor = torch.from_numpy(np.array(array, order="C"))
    check_finite(where, tensor, hint="the file is damaged")
    return tensor
