import math
import sys
import types

import pytest
import torch

from golf.model.attention import (
    AUTO_ORDER,
    HOW_TO_GET,
    NAMES,
    Documents,
    attend,
    choose_backend,
    implementation,
    number_tokens,
    prepare_behind,
    segments,
)
from golf.runtime.errors import ConfigError


def naive(q, k, v):
    """Attention by its formula, in fp64, one query head at a time."""
    batch, length, heads, width = q.shape
    share = heads // k.shape[2]
    out = torch.zeros(batch, length, heads, width, dtype=torch.float64)
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    for head in range(heads):
        keys, values = k[:, :, head // share].double(), v[:, :, head // share].double()
        scores = q[:, :, head].double() @ keys.mT / math.sqrt(width)
        out[:, :, head] = scores.masked_fill(~visible, -math.inf).softmax(-1) @ values
    return out


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("length", [1, 33])
def test_sdpa_is_causal_grouped_attention(heads, kv_heads, length):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, length, heads, 8, generator=generator)
    k, v = torch.randn(2, 2, length, kv_heads, 8, generator=generator)
    y = attend(q, k, v)
    assert y.shape == q.shape
    assert torch.allclose(y.double(), naive(q, k, v), atol=1e-5)


@pytest.mark.parametrize("past", [0, 7])
@pytest.mark.parametrize("window", [5, 40])
def test_flex_reads_several_rows_by_one_mask(past, window):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 20, 4, 16, generator=generator)
    k, v = torch.randn(2, 3, past + 20, 2, 16, generator=generator)
    found, exact = (
        implementation(name)(q, k, v, prepare_behind(name, 3, 20, past, past + 20, window, q.device))
        for name in ("flex", "sdpa")
    )
    torch.testing.assert_close(found, exact)


def test_grouped_heads_equal_repeated_ones():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 17, 6, 8, generator=generator)
    k, v = torch.randn(2, 2, 17, 2, 8, generator=generator)
    repeated = attend(q, k.repeat_interleave(3, dim=2), v.repeat_interleave(3, dim=2))
    assert torch.allclose(attend(q, k, v), repeated, atol=1e-6)


def test_auto_on_cpu_is_plain_sdpa():
    name, reason = choose_backend("auto", "cpu")
    assert name == "sdpa"
    assert "cpu" in reason
    assert choose_backend("sdpa", torch.device("cpu")) == ("sdpa", "forced by hardware.attention")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sdpa"])
def test_a_forced_backend_that_cannot_run_says_how_to_get_it(name):
    with pytest.raises(ConfigError) as caught:
        choose_backend(name, "cpu")
    assert f"hardware.attention={name}" in str(caught.value)
    assert HOW_TO_GET[name] in str(caught.value)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="'fastest'"):
        choose_backend("fastest", "cpu")
    with pytest.raises(ConfigError, match="'fastest'"):
        implementation("fastest")


def fake_gpu(monkeypatch, capability, installed=()):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr("golf.model.attention._module_exists", lambda module: module in installed)


@pytest.mark.parametrize(
    ("capability", "installed", "expected"),
    [
        ((9, 0), ("flash_attn.cute", "flash_attn_interface", "flash_attn"), "fa3"),
        ((9, 0), ("flash_attn_interface", "flash_attn"), "fa3"),
        ((9, 0), ("flash_attn",), "cudnn"),
        ((9, 0), (), "cudnn"),
        ((10, 0), ("flash_attn_interface",), "cudnn"),
        ((8, 0), ("flash_attn_interface", "flash_attn"), "cudnn"),
        ((7, 5), ("flash_attn",), "sdpa"),
    ],
)
def test_auto_takes_the_first_that_runs_here(monkeypatch, capability, installed, expected):
    fake_gpu(monkeypatch, capability, installed)
    name, reason = choose_backend("auto", "cuda")
    assert name == expected
    for earlier in AUTO_ORDER[: AUTO_ORDER.index(name)]:
        assert f"{earlier}: " in reason


def test_forcing_on_the_wrong_gpu_names_both_capabilities(monkeypatch):
    fake_gpu(monkeypatch, (8, 0), ("flash_attn_interface",))
    with pytest.raises(ConfigError, match=r"found 8\.0"):
        choose_backend("fa3", "cuda")


@pytest.mark.parametrize(("flags", "expected"), [
    ({"FLASHATTENTION_DISABLE_LOCAL": True}, "cudnn"), ({"FLASHATTENTION_DISABLE_LOCAL": False}, "fa3"), ({}, "fa3"),
])  # fmt: skip
def test_a_build_without_windows_is_not_taken(monkeypatch, flags, expected):
    fake_gpu(monkeypatch, (9, 0), ("flash_attn_interface", "flash_attn_config"))
    monkeypatch.setitem(sys.modules, "flash_attn_config", types.SimpleNamespace(CONFIG={"build_flags": flags}))
    assert choose_backend("auto", "cuda")[0] == expected
    if expected != "fa3":
        with pytest.raises(ConfigError, match="built without windows"):
            choose_backend("fa3", "cuda")


def test_a_cuda_device_without_cuda_is_told():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert choose_backend("auto", "cuda")[0] == "sdpa"


def test_choosing_imports_no_flash_attention():
    choose_backend("auto", "cpu")
    assert not {"flash_attn", "flash_attn_interface"} & set(sys.modules)


LENGTHS = [[5, 1, 1, 10, 3], [20], [19, 1], [1] * 20]  # of documents, by row


def numbered(lengths=LENGTHS):
    """(B, T) int32: the document of each token, and the same as segments with padding behind."""
    numbers = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])
    ends = torch.tensor([length for row in lengths for length in row]).cumsum(0)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends, ends[-1:].repeat(7)])
    return numbers.int(), Documents(starts.int(), 20)


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_no_token_sees_another_document(form, backend):
    documents = numbered()[form]
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(len(LENGTHS), 20, 4, 16, generator=generator)
    k, v = torch.randn(2, len(LENGTHS), 20, 2, 16, generator=generator).unbind()
    if backend == "flex":  # its backward pass exists on GPUs alone
        torch.testing.assert_close(attend(q, k, v, backend, documents), attend(q, k, v, "sdpa", documents))
        return
    y = attend(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), backend, documents)
    weight = torch.randn(y.shape, generator=generator)
    grads = torch.autograd.grad((y * weight).sum(), (q, k, v))
    for row, lengths in enumerate(LENGTHS):
        first = 0
        for length in lengths:
            part = (slice(row, row + 1), slice(first, first + length))
            alone = [t[part].detach().requires_grad_() for t in (q, k, v)]
            expected = attend(*alone)
            torch.testing.assert_close(y[part], expected, atol=1e-5, rtol=0)
            for found, exact in zip(grads, torch.autograd.grad((expected * weight[part]).sum(), alone), strict=True):
                torch.testing.assert_close(found[part], exact, atol=1e-4, rtol=0)
            first += length


def test_numbers_and_segments_say_the_same(monkeypatch):
    numbers, documents = numbered()
    exact = segments(numbers)
    assert exact.starts.tolist() == documents.starts.unique().tolist(), "no more entries than there are"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = segments(numbers)
    assert found.longest == exact.longest == 20
    assert found.starts.dtype == exact.starts.dtype == torch.int32
    assert found.starts.shape == (numbers.numel() + 1,), "in a graph, the same shape whatever the documents"
    assert found.starts.unique().tolist() == documents.starts.unique().tolist()
    for each in (exact, found, documents):
        assert torch.equal(number_tokens(each, 4, 20).diff() > 0, number_tokens(documents, 4, 20).diff() > 0)
    assert number_tokens(documents, 4, 20)[0].tolist() == [1] * 5 + [2] + [3] + [4] * 10 + [5] * 3


@pytest.mark.parametrize("tuples", [False, True])
def test_flash_attention_is_asked_for_documents_by_its_own_names(monkeypatch, tuples):
    """A stand-in for the three packages, whose functions differ in everything but these names."""
    asked = {}

    def dense(q, k, v, causal=False):
        y = attend(q, k, v)
        return (y, None) if tuples else y

    def variable(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False):
        asked.update(causal=causal, longest=(max_seqlen_q, max_seqlen_k), same=cu_seqlens_q is cu_seqlens_k)
        y = attend(q[None], k[None], v[None], documents=Documents(cu_seqlens_q, q.shape[0]))[0]
        return (y, None) if tuples else y

    module = type(sys)("flash_attn_interface")
    module.flash_attn_func, module.flash_attn_varlen_func = dense, variable
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    _, documents = numbered()
    q = torch.randn(4, 20, 4, 16)
    k, v = torch.randn(2, 4, 20, 2, 16)
    for given in (None, documents):
        torch.testing.assert_close(attend(q, k, v, "fa3", given), attend(q, k, v, "sdpa", given))
    assert asked == {"causal": True, "longest": (20, 20), "same": True}
