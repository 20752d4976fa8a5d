import math
import sys

import pytest
import torch

from golf.model.attention import AUTO_ORDER, HOW_TO_GET, attend, choose_backend, implementation
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


@pytest.mark.parametrize("name", [name for name in AUTO_ORDER if name != "sdpa"])
def test_a_forced_backend_that_cannot_run_says_how_to_get_it(name):
    with pytest.raises(ConfigError) as caught:
        choose_backend(name, "cpu")
    assert f"hardware.attention={name}" in str(caught.value)
    assert HOW_TO_GET[name] in str(caught.value)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="flex"):
        choose_backend("flex", "cpu")
    with pytest.raises(ConfigError, match="flex"):
        implementation("flex")


def fake_gpu(monkeypatch, capability, installed=()):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr("golf.model.attention._module_exists", lambda module: module in installed)


@pytest.mark.parametrize(
    ("capability", "installed", "expected"),
    [
        ((9, 0), ("flash_attn.cute", "flash_attn_interface", "flash_attn"), "fa4"),
        ((9, 0), ("flash_attn_interface", "flash_attn"), "fa3"),
        ((9, 0), ("flash_attn",), "fa2"),
        ((9, 0), (), "cudnn"),
        ((10, 0), ("flash_attn_interface",), "cudnn"),
        ((8, 0), ("flash_attn_interface", "flash_attn"), "fa2"),
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


def test_a_cuda_device_without_cuda_is_told():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert choose_backend("auto", "cuda")[0] == "sdpa"


def test_choosing_imports_no_flash_attention():
    choose_backend("auto", "cpu")
    assert not {"flash_attn", "flash_attn_interface"} & set(sys.modules)
