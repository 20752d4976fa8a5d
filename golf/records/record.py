"""One finished run as the papers of a submission describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from golf.records.results import Results
from golf.stats.baseline import FINEWEB_VAL_BYTES, SAME_TEXT
from golf.stats.units import bpb_to_nats

CAP = 16_000_000  # bytes, the challenge's
CLOCK = 600.0  # seconds, for training and again for evaluation, on 8 GPUs


@dataclass(frozen=True)
class Record:
    """Reports and timings are by stage, then by seed; ``params`` holds every section of params.yaml by name."""

    results: Results
    aggregate: Mapping[str, Any]
    reports: Mapping[str, Mapping[int, Mapping[str, Any]]]
    timings: Mapping[str, Mapping[int, Mapping[str, Any]]]
    params: Mapping[str, Any]
    author: str = ""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order asked for."""
        return self.results.seeds

    @property
    def date(self) -> str:
        """Day (UTC) of the newest evaluation or training: the same papers come out of a cached result."""
        times = [timing.get("started_at", 0.0) for by_seed in self.timings.values() for timing in by_seed.values()]
        return datetime.fromtimestamp(max(times, default=0.0), UTC).strftime("%Y-%m-%d")

    @property
    def name(self) -> str:
        """The model in a few words: vocabulary is the artifact's, so it stands in the parameters only."""
        model, quant = self.params["model"], self.params["quant"]
        adapts = ", score-first TTT" if self.params["eval"]["ttt"] != "none" else ""
        return f"{model['num_layers']}x{model['dim']} transformer, GPTQ int{quant['bits']}{adapts}"

    @property
    def whole_split(self) -> bool:
        """Whether the scored text is the challenge's whole validation split, by its bytes."""
        return abs(self.results.bytes / FINEWEB_VAL_BYTES - 1.0) <= SAME_TEXT

    def seconds(self, stage: str, seed: int) -> float | None:
        """What counts against the clock of ``stage``: its clock, else the part of its name, else all of it.

        Training's includes the seconds for which training text was read after the last step.
        """
        timing = self.timings.get(stage, {}).get(seed, {})
        part = timing.get("parts", {}).get(stage, timing.get("seconds"))
        value = timing.get("program", {}).get("clock_seconds", timing.get("clock_seconds", part))
        if not isinstance(value, (int, float)):
            return None
        return round(value + (self.text_seconds(seed) if stage == "train" else 0.0), 1)

    def text_seconds(self, seed: int) -> float:
        """For which training text was read after the last step, by the choice among weights and by calibration."""
        timings = [self.timings.get(stage, {}).get(seed, {}) for stage in ("select", "quantize")]
        return sum(timing.get("text_seconds", 0.0) for timing in timings)

    def in_time(self, stage: str, seed: int) -> bool:
        """Whether ``stage`` is known to have taken no more than the challenge's clock."""
        seconds = self.seconds(stage, seed)
        return seconds is not None and seconds <= CLOCK

    def device(self, seed: int) -> str:
        """What trained ``seed``."""
        return str(self.timings.get("train", {}).get(seed, {}).get("device", "unknown"))

    def loss(self, bpb: float) -> float:
        """``bpb`` as nats a token of the scored text."""
        return bpb_to_nats(bpb, self.results.bytes / self.results.tokens)

    def obstacles(self) -> list[str]:
        """Why this can't be handed in for the 10-minute, 16 MB track; nothing: it can."""
        train, found = self.params["train"], []
        if not self.whole_split:
            found.append(f"scored on {self.results.bytes:,} bytes, not on the whole validation split")
        if max(self.results.total_bytes.values()) > CAP:
            found.append(f"the largest seed is over {CAP:,} bytes")
        if train["gpus"] != 8 or train["steps"] != 0 or train["seconds"] > CLOCK:
            found.append("not trained by the clock of 600 s on 8 GPUs")
        for stage in ("train", "evaluate"):
            late = [seed for seed in self.seeds if not self.in_time(stage, seed)]
            if late:
                found.append(f"{stage}: no proof of 600 s or less for seed {', '.join(map(str, late))}")
        if len(self.seeds) < 3:
            found.append(f"{len(self.seeds)} seed(s), needed 3")
        return found + [flag for flag in self.results.flags if flag]


def submission(record: Record) -> dict[str, Any]:
    """The content of submission.json, with the keys that the published records share."""
    results, aggregate = record.results, record.aggregate
    obstacles = record.obstacles()
    losses = list(results.losses.values())
    content: dict[str, Any] = {
        "name": record.name,
        "date": record.date,
        "track": "non_record_16mb" if obstacles else "10min_16mb",
        "val_bpb": aggregate["bpb_mean"],
        "val_bpb_std": aggregate["bpb_std"],
        "val_loss": sum(losses) / len(losses),
        "bytes_total": max(results.total_bytes.values()),
        "bytes_code": results.code_bytes,
        "seeds": list(record.seeds),
        "seed_results": {str(seed): seed_result(record, seed) for seed in record.seeds},
        "hardware": ", ".join(sorted({record.device(seed) for seed in record.seeds})),
        "technique_summary": technique(record.params),
        "significance": {"verdict": aggregate["verdict"], "flags": aggregate["flags"], "test": aggregate["test"],
                         "test_with_margin": aggregate["test_with_margin"]},
        "compliance": compliance(record),
    }  # fmt: skip
    if obstacles:
        content["non_record_reason"] = "; ".join(obstacles)
    if record.author:
        content = {"author": record.author, **content}
    return content


def seed_result(record: Record, seed: int) -> dict[str, Any]:
    """One seed: ``val_bpb`` is the final score; held-out figures are on training text kept aside."""
    evaluated, quantized = record.reports["evaluate"][seed], record.reports["quantize"][seed]
    found = {
        "val_bpb": record.results.bpb[seed],
        "val_loss": record.results.losses[seed],
        "sliding_val_bpb": evaluated.get("sliding_bpb"),
        "roundtrip_val_bpb": evaluated.get("roundtrip_bpb"),
        "heldout_bpb_pre_quant": quantized.get("pre_bpb"),
        "heldout_bpb_post_quant": quantized.get("post_bpb"),
        "artifact_bytes": record.results.total_bytes[seed],
        "steps": record.reports["train"][seed].get("steps"),
        "train_time_s": record.seconds("train", seed),
        "eval_time_s": record.seconds("evaluate", seed),
    }
    return {key: value for key, value in found.items() if value is not None}


def compliance(record: Record) -> dict[str, bool]:
    """What the run shows of each rule; the audit has passed, or there would be no record."""
    return {
        "artifact_under_16mb": max(record.results.total_bytes.values()) <= CAP,
        "train_under_600s": all(record.in_time("train", seed) for seed in record.seeds),
        "eval_under_600s": all(record.in_time("evaluate", seed) for seed in record.seeds),
        "three_seeds": len(record.seeds) >= 3,
        "full_validation_split": record.whole_split,
        "score_first_ttt": True,
        "no_pre_quant_ttt": True,
        "no_slot": True,
        "no_etlb": True,
        "no_ngram_cache": not record.params.get("eval", {}).get("tilt"),  # a legal one is one still
    }


def adaptation(evaluation: Mapping[str, Any]) -> str:
    """What the evaluation learns, from its parameters; empty: nothing."""
    chunks = f"score-first SGD TTT on chunks of {evaluation['ttt_chunk_tokens']}"
    if evaluation["ttt"] != "lora":
        return chunks if evaluation["ttt"] == "sgd" else ""
    phases = f", and {chunks} after each {evaluation['phase_tokens']}" if evaluation["phase_tokens"] else ""
    return f"score-first LoRA TTT per document, rank {evaluation['lora_rank']}{phases}"


def technique(params: Mapping[str, Any]) -> str:
    """The method in one line, from the parameters that make it."""
    model, train, quant, evaluation = params["model"], params["train"], params["quant"], params["eval"]
    parts = [
        f"{model['num_layers']} layers x {model['dim']}, {model['num_heads']}/{model['num_kv_heads']} heads",
        model["activation"],
        f"XSA on {model['xsa_layers']} layers" if model["xsa_layers"] else "",
        "SmearGate" if model["smear_gate"] else "",
        f"BigramHash {model['bigram_buckets']}x{model['bigram_dim']}" if model["bigram_buckets"] else "",
        "Muon + AdamW",
        f"EMA {', '.join(map(str, train['ema_decays']))}" if train["ema_decays"] else "",
        f"late QAT at {train['qat_bits']} bits" if train["qat_share"] else "",
        f"GPTQ int{quant['bits']}, embeddings int{quant['embed_bits']}",
        f"sliding windows of {evaluation['seq_len']}, stride {evaluation['stride']}",
        adaptation(evaluation),
        "n-gram tilt learnt online" if evaluation.get("tilt") else "",
    ]
    return "; ".join(part for part in parts if part)
