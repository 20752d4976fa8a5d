"""Causal grouped-query attention: one interface, several implementations, chosen once at start.

Plain causal over each row, or within documents only. Where documents lie is prepared once a forward pass, by
:func:`prepare`, in the form that the implementation wants: cumulative lengths or a mask.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.runtime.errors import ConfigError


class Documents(NamedTuple):
    """Where attention begins anew in B rows of T tokens, read as one stream of B * T.

    ``starts[i]`` to ``starts[i + 1]`` is a segment, which never crosses a row. Behind the last one the entries are
    B * T, as many as keep the shape the same for every batch.
    """

    starts: Tensor  # (S + 1,) int32, from 0, never falling, to B * T
    longest: int  # bound of a segment's tokens
    window: int = 0  # keys of its segment that a query sees at most, the last ones, its own among them; 0: all


class Behind(NamedTuple):
    """Queries that stand behind earlier keys of their rows: where the rows lie in either."""

    queries: Documents  # its window holds
    keys: Documents
    used: Tensor | None = None  # (B,) int32: how many of a row's keys there are yet; None: all. FlashAttention 3 alone


Attend = Callable[[Tensor, Tensor, Tensor, Any], Tensor]  # q, k, v, what `prepare` gave -> y; shapes as in `attend`

# By speed, as measured on an H200: docs/flash-attention.md.
AUTO_ORDER = ("fa3", "cudnn", "fa2", "flash", "sdpa")
NAMES = (*AUTO_ORDER, "fa4", "flex")  # these two are never chosen by themselves
MODULES = {"fa4": "flash_attn.cute", "fa3": "flash_attn_interface", "fa2": "flash_attn"}
MASKED = ("sdpa", "flex")  # read a mask; the others cumulative lengths
CAPABILITIES = {  # least and last major compute capability that each was built for
    "fa4": (9, 10),
    "fa3": (9, 9),
    "fa2": (8, 12),
    "cudnn": (8, 12),
    "flash": (8, 12),
    "flex": (8, 12),
}
HOW_TO_GET = {
    "fa4": "build flash_attn/cute from flash-attention's sources (Hopper or Blackwell), or hardware.attention=auto",
    "fa3": "build flash-attention's hopper/ folder (Hopper; docs/flash-attention.md), or hardware.attention=auto",
    "fa2": "pip install flash-attn --no-build-isolation (Ampere or later), or hardware.attention=auto",
    "cudnn": "a CUDA build of torch with cuDNN 9 and an Ampere or later GPU, or hardware.attention=auto",
    "flash": "a CUDA build of torch and an Ampere or later GPU, or hardware.attention=auto",
    "flex": "a CUDA build of torch with Triton and an Ampere or later GPU, or hardware.attention=auto",
}


def attend(
    q: Tensor, k: Tensor, v: Tensor, backend: str = "sdpa", documents: Documents | Tensor | None = None
) -> Tensor:
    """Causal softmax attention with scale 1/sqrt(D); query head h reads key/value head h * Hkv // H.

    Args:
        q: (B, T, H, D)
        k: (B, T, Hkv, D), Hkv a divisor of H
        v: (B, T, Hkv, D)
        backend: a name of :data:`NAMES`; see :func:`choose_backend`.
        documents: as for :func:`prepare`.

    Returns:
        (B, T, H, D) in the dtype of q.
    """
    return implementation(backend)(q, k, v, prepare(backend, documents, q.shape[0], q.shape[1]))


def prepare(backend: str, documents: Documents | Tensor | None, rows: int, length: int) -> Any:
    """The fourth argument of ``implementation(backend)``, for every layer of a forward pass.

    Args:
        backend: the implementation.
        documents: segments of the (rows, length) tokens, or (rows, length) int32 with a number for each document,
            rising along a row; None: no document ends inside a row.
        rows, length: B and T.
    """
    if documents is None:
        return None
    if backend not in MASKED:
        return documents if isinstance(documents, Documents) else segments(documents)
    if isinstance(documents, Documents):
        numbers, window = number_tokens(documents, rows, length), documents.window
    else:
        numbers, window = documents, 0
    if backend == "flex":
        return _flex_mask(rows, length, numbers.device, window=window, numbers=numbers)
    seen = _seen(torch.arange(length, device=numbers.device)[:, None], length, window)
    return ((numbers[:, :, None] == numbers[:, None, :]) & seen)[:, None]  # (B, 1, T, T)


def prepare_behind(
    backend: str, rows: int, length: int, past: int | Tensor, total: int, window: int, device: torch.device
) -> Any:
    """The same for (rows, length) queries behind ``past`` keys of their row; each sees ``window`` keys at most.

    Rows hold ``total`` keys. Where ``past`` is a number on the device, those behind the queries' are not there yet.
    """
    if total == length <= window:
        return None
    if backend == "flex":
        return _flex_mask(1, length, device, total - length, window)
    if backend in MASKED:
        return _seen(past + torch.arange(length, device=device)[:, None], total, window)
    counts = torch.arange(rows + 1, dtype=torch.int32, device=device)
    used = None if isinstance(past, int) else (past + length).to(torch.int32).repeat(rows)
    return Behind(Documents(counts * length, length, window), Documents(counts * total, total), used)


def _seen(places: Tensor, total: int, window: int) -> Tensor:
    """(T, total) bool: which keys a query at ``places`` (T, 1) among them sees, at most ``window``; 0: all before."""
    distance = places - torch.arange(total, device=places.device)
    return (distance >= 0) & (distance < (window or total))


def segments(numbers: Tensor) -> Documents:
    """Segments of rows whose tokens have the ``numbers`` (B, T) of their documents.

    Where a graph is made of it, a GPU cannot be waited for: there are entries for B * T of them.
    """
    begins = torch.ones_like(numbers, dtype=torch.bool)
    begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    if torch.compiler.is_compiling() or (numbers.is_cuda and torch.cuda.is_current_stream_capturing()):
        places = torch.arange(numbers.numel(), dtype=torch.int32, device=numbers.device)
        starts = torch.where(begins.flatten(), places, numbers.numel()).sort().values
    else:  # attention takes its time for each entry: 65,536 tokens, 36 documents
        starts = begins.flatten().nonzero().flatten()
    return Documents(F.pad(starts, (0, 1), value=numbers.numel()).to(torch.int32), numbers.shape[1])


def number_tokens(documents: Documents, rows: int, length: int) -> Tensor:
    """(rows, length) int32: the segment of each token."""
    starts = documents.starts
    places = torch.arange(rows * length, dtype=starts.dtype, device=starts.device)
    return torch.searchsorted(starts, places, right=True, out_int32=True).view(rows, length)


def implementation(backend: str) -> Attend:
    """The function behind ``backend``, imported here and now so that a compiled model holds it and imports nothing."""
    if backend in MODULES:
        module = importlib.import_module(MODULES[backend])
        return _flash_attention(module.flash_attn_func, module.flash_attn_varlen_func)
    if backend in ("cudnn", "flash"):
        return _forced_sdpa(backend)
    if backend == "flex":
        return _flex()
    if backend == "sdpa":
        return _sdpa
    raise ConfigError(f"hardware.attention: found {backend!r}, needed one of {', '.join(NAMES)}")


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)
    return y.transpose(1, 2)


def _forced_sdpa(backend: str) -> Attend:
    """torch's own kernels. Its interface to cuDNN takes no variable lengths: within documents, flash's do the work."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernel = SDPBackend.CUDNN_ATTENTION if backend == "cudnn" else SDPBackend.FLASH_ATTENTION

    def call(q: Tensor, k: Tensor, v: Tensor, documents: Documents | Behind | None = None) -> Tensor:
        if documents is None:
            with sdpa_kernel(kernel):
                return _sdpa(q, k, v)
        queries, keys, _ = documents if isinstance(documents, Behind) else Behind(documents, documents)
        q, k, v, shape = _flat(q), _flat(k), _flat(v), q.shape
        return torch.ops.aten._flash_attention_forward(
            q, k, v, queries.starts, keys.starts, queries.longest, keys.longest, 0.0, True, False,
            window_size_left=queries.window - 1 if _binds(queries, keys) else None,
        )[0].view(shape)  # fmt: skip

    return call


def _flash_attention(dense: Callable[..., Any], variable: Callable[..., Any]) -> Attend:
    def call(q: Tensor, k: Tensor, v: Tensor, documents: Documents | Behind | None = None) -> Tensor:
        if documents is None:
            return _first(dense(q, k, v, causal=True))
        queries, keys, used = documents if isinstance(documents, Behind) else Behind(documents, documents)
        given: dict[str, Any] = {"cu_seqlens_q": queries.starts, "cu_seqlens_k": keys.starts}
        given |= {"max_seqlen_q": queries.longest, "max_seqlen_k": keys.longest}
        if used is not None:
            given["seqused_k"] = used
        if _binds(queries, keys):
            given["window_size"] = (queries.window - 1, 0)
        return _first(variable(_flat(q), _flat(k), _flat(v), causal=True, **given)).view(q.shape)

    return call


def _binds(queries: Documents, keys: Documents) -> bool:
    """Whether the window can hide a key; where it can't, builds without windows do."""
    return 0 < queries.window < keys.longest


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result  # some versions return the log-sum-exp too


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:])


def _flex() -> Attend:
    from torch.nn.attention.flex_attention import flex_attention

    def call(q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
        if mask is None:
            mask = _flex_mask(1, q.shape[1], q.device)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y: Any = flex_attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return y.transpose(1, 2)

    return call


def _flex_mask(
    rows: int, length: int, device: torch.device, past: int = 0, window: int = 0, numbers: Tensor | None = None
) -> Any:
    """Causal behind ``past`` keys, of the last ``window``, within documents by their ``numbers`` (rows, length)."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + past - key
        seen = (distance >= 0) & (distance < (window or past + length))
        if numbers is None:  # the row is that of the queries, whichever shape the mask was made in
            return seen
        return seen & (numbers[row, query] == numbers[row, key])

    return create_block_mask(visible, rows if rows > 1 else None, None, length, past + length, device=str(device))


def choose_backend(name: str, device: torch.device | str) -> tuple[str, str]:
    """The attention implementation to use and the reason, for the log.

    Args:
        name: ``auto``, or one of :data:`NAMES` to force it.
        device: where the model runs.

    Raises:
        ConfigError: the forced implementation cannot run here.
    """
    device = torch.device(device)
    if name != "auto":
        if name not in NAMES:
            raise ConfigError(f"hardware.attention: found {name!r}, needed auto or one of {', '.join(NAMES)}")
        obstacle = _obstacle(name, device)
        if obstacle:
            raise ConfigError(f"hardware.attention={name}: {obstacle}", hint=HOW_TO_GET[name])
        return name, "forced by hardware.attention"
    if device.type != "cuda":
        return "sdpa", f"the only one on {device.type}"
    refused: list[str] = []
    for candidate in AUTO_ORDER:
        obstacle = _obstacle(candidate, device)
        if not obstacle:
            return candidate, "; ".join(refused) or "the first choice"
        refused.append(f"{candidate}: {obstacle}")
    raise AssertionError("sdpa has no obstacle")


def _obstacle(name: str, device: torch.device) -> str:
    """Why ``name`` cannot run on ``device``; empty when it can. Nothing heavy is imported."""
    if name == "sdpa":
        return ""
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"needs a CUDA device, found {device.type if device.type != 'cuda' else 'none'}"
    least, last = CAPABILITIES[name]
    major, minor = torch.cuda.get_device_capability(device)
    if not least <= major <= last:
        return f"needs compute capability {least}.0 to {last}.x, found {major}.{minor}"
    if name in MODULES and not _module_exists(MODULES[name]):
        return f"package {MODULES[name]} is not installed"
    if name == "fa3" and _module_exists("flash_attn_config"):
        flags = importlib.import_module("flash_attn_config").CONFIG["build_flags"]
        if flags.get("FLASHATTENTION_DISABLE_LOCAL"):  # else the first document beyond a window would end the run
            return "built without windows (FLASH_ATTENTION_DISABLE_LOCAL)"
    no_cudnn = name == "cudnn" and not torch.backends.cudnn.is_available()
    return "this torch has no cuDNN" if no_cudnn else ""


def _module_exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing or broken
        return False
