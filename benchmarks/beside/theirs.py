"""The script's own evaluations of our weights: its functions, called as its ``main`` and what that calls do it."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.beside import script
from benchmarks.beside.weights import shape_settings
from golf.model.weights import ModelSpec
from golf.runtime.device import peak_memory


class Theirs:
    """The script's parts on our weights ``state`` of ``spec``; its settings are the documented ones and ``settings``.

    Raises:
        ConfigError: it has no such model.
    """

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        state: Mapping[str, Tensor],
        settings: Mapping[str, str],
        device: torch.device,
    ) -> None:
        self.state, self.device = state, device
        with contextlib.redirect_stdout(sys.stderr):
            self.script = script.load(path, shape_settings(spec) | dict(settings), device)
            as_in_its_main(device)
            config = self.script.Hyperparameters()
            torch.manual_seed(config.seed)
            self.data = self.script.ValidationData(config, device)
        self.data.val_bytes = torch.ones_like(self.data.val_tokens)  # read even where there is no sidecar

    def __call__(self, form: str) -> dict[str, Any]:
        """One part; nothing compiled on a CPU, nor where that fails: then it says ``eager``."""
        for eager in (False, True) if self.device.type == "cuda" else (True,):
            torch._dynamo.reset()
            begin_memory(self.device)
            config, model = script.build(self.script, self.state, self.device)
            if form in ("windows", "lora"):
                config.phased_ttt_prefix_docs = 0
            if form == "windows":
                config.ttt_grad_steps = 0
            part = self.plain if form == "plain" else self.phased
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    found = part(config, model, eager)
                return {**found, "eager": eager, "peak_memory_bytes": peak_memory(self.device)}
            except Exception:
                traceback.print_exc()
                error = traceback.format_exc()[-1500:]
            del model
        return {"error": error}

    def plain(self, config: Any, model: Any, eager: bool) -> dict[str, Any]:
        """Its plain score, twice: what the first call took more than the second was compiling."""
        forward = model.forward_logits
        if not eager:
            forward = torch.compile(forward, dynamic=False, fullgraph=True)
        times = [now(self.device)]
        for _ in range(2):
            nats, _ = self.script.eval_val(config, self.device, self.data, model, forward)
            times.append(now(self.device))
        first, second = times[1] - times[0], times[2] - times[1]
        return {"nats": nats, "seconds": second, "compile_seconds": first - second}

    def phased(self, config: Any, model: Any, eager: bool) -> dict[str, Any]:
        """Its test-time training: rotary tables, a warm-up on random tokens, then what its timer holds."""
        begin = now(self.device)
        model.requires_grad_(False)
        for block in model.blocks:
            rotary = block.attn.rotary
            rotary._cos_cached = rotary._sin_cached = None
            rotary._seq_len_cached = 0
            rotary(config.ttt_eval_seq_len, self.device, torch.bfloat16)

        def forward(input_ids: Tensor, target_ids: Tensor, lora: Any) -> Tensor:
            return model.forward_ttt(input_ids, target_ids, lora=lora)

        run = forward if eager else torch.compile(forward, dynamic=True)
        self.warm_up(config, model, run)
        begin_memory(self.device)
        middle = now(self.device)
        nats, _ = self.script.eval_val_ttt_phased(config, model, self.device, self.data, forward_ttt_train=run)
        return {"nats": nats, "seconds": now(self.device) - middle, "compile_seconds": middle - begin}

    def warm_up(self, config: Any, model: Any, run: Any) -> None:
        """A step for each of its two lengths, adapters thrown away, as before its own timer."""
        rows = config.ttt_batch_size
        adapters = self.script.BatchedTTTLoRA(
            rows, model, config.ttt_lora_rank, k_lora=config.ttt_k_lora, mlp_lora=config.ttt_mlp_lora,
            o_lora=config.ttt_o_lora,
        ).to(self.device)  # fmt: skip
        optimizer = torch.optim.AdamW(
            adapters.parameters(), lr=config.ttt_lora_lr, betas=(config.ttt_beta1, config.ttt_beta2), eps=1e-10,
            weight_decay=config.ttt_weight_decay, fused=True,
        )  # fmt: skip
        for length in (config.ttt_chunk_size, config.ttt_eval_seq_len):
            inputs, targets = torch.randint(0, config.vocab_size, (2, rows, length), device=self.device)
            with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
                nats = run(inputs, targets, lora=adapters)
            nats[:, : config.ttt_chunk_size].mean(dim=-1).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def as_in_its_main(device: torch.device) -> None:
    """What the script's ``main`` sets of torch."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.optimize_ddp = False
    torch._dynamo.config.cache_size_limit = 64
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)


def begin_memory(device: torch.device) -> None:
    """Give back what is kept for later, and count the most bytes in use from here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
