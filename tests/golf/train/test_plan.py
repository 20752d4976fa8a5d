import dataclasses
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.data.shards import write_shard
from golf.params.hardware import Hardware
from golf.params.train import Train
from golf.runtime.device import choose_compile
from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError
from golf.train.loop import train
from golf.train.plan import check, choose_processes, make_plan, parameter_count, weights_bytes
from tests.golf.train.tiny import make_config

STEPS = Train(batch_tokens=8192, micro_batch_tokens=2048, seq_len=512)
CLOCKED = dataclasses.replace(STEPS, steps=0, seconds=600.0, reserve_seconds=8.0, gpus=8)
CPU = Hardware(device="cpu")


@pytest.mark.parametrize(("processes", "micro_windows", "accumulation"), [(1, 4, 4), (2, 4, 2), (4, 4, 1), (8, 2, 1)])
def test_a_step_is_the_same_batch_on_any_number_of_ranks(processes: int, micro_windows: int, accumulation: int) -> None:
    plan = make_plan(STEPS, CPU, processes)
    assert plan.divisions == {8192: (micro_windows * accumulation, micro_windows)}
    assert micro_windows * accumulation * processes * plan.row_tokens == 8192
    assert (plan.clock, plan.budget_seconds) == ("steps", None)


@pytest.mark.parametrize(
    ("processes", "seconds", "clock"),
    [(8, 592.0, "wall"), (4, 1184.0, "stretched x2"), (2, 2368.0, "stretched x4"), (1, 4736.0, "stretched x8")],
)
def test_fewer_gpus_have_more_seconds(processes: int, seconds: float, clock: str) -> None:
    plan = make_plan(CLOCKED, CPU, processes)
    assert (plan.budget_seconds, plan.clock) == (seconds, clock)


def test_a_strict_clock_is_not_stretched() -> None:
    strict = Hardware(device="cpu", strict_clock=True)
    with pytest.raises(ConfigError, match=r"strict_clock: found 4 processes, needed train.gpus = 8. Try: dvc"):
        make_plan(CLOCKED, strict, 4)
    assert make_plan(CLOCKED, strict, 8).clock == "wall"
    assert make_plan(STEPS, strict, 1).clock == "steps"


def test_more_ranks_than_the_clock_counts_on_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hardware.processes: found 16, needed at most train.gpus = 8"):
        make_plan(CLOCKED, CPU, 16)


def test_batches_that_do_not_divide_are_refused_with_one_that_does() -> None:
    with pytest.raises(ConfigError, match=r"8192 = 16 windows of 512 do not divide among 3 .*hardware.processes=2$"):
        make_plan(STEPS, CPU, 3)
    odd = dataclasses.replace(STEPS, batch_tokens=12288, micro_batch_tokens=4096)
    with pytest.raises(ConfigError, match=r"micro_batch_tokens: found 4096, needed a divisor of the 6144.*=3072"):
        make_plan(odd, CPU, 2)


def test_more_ranks_than_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"16 windows of 512 are fewer than 32 processes.*hardware.processes=16$"):
        make_plan(STEPS, CPU, 32)
    packed = dataclasses.replace(STEPS, pack="documents")
    assert make_plan(packed, CPU, 4).divisions == {8192: (1, 1)}
    with pytest.raises(ConfigError, match=r"4 packed rows \(train.micro_batch_tokens\) of 2048 are fewer than 8"):
        make_plan(packed, CPU, 8)
    growing = dataclasses.replace(STEPS, batch_growth=((0.5, 1024),))
    assert make_plan(growing, CPU, 2).divisions == {1024: (1, 1), 8192: (8, 4)}
    with pytest.raises(ConfigError, match=r"batch_growth: 1024 = 2 windows .* are fewer than 4.*hardware.processes=2"):
        make_plan(growing, CPU, 4)


def test_ranks_are_as_many_as_the_machine_and_the_batch_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_processes(STEPS, CPU) == (1, "no GPU in use")
    assert choose_processes(STEPS, Hardware(device="cpu", processes=4))[0] == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    assert choose_processes(STEPS, Hardware(device="cuda")) == (4, "4 of 6 GPUs")
    assert choose_processes(dataclasses.replace(CLOCKED, gpus=2), Hardware(device="cuda"))[0] == 2
    assert choose_processes(dataclasses.replace(STEPS, pack="documents"), Hardware(device="cuda"))[0] == 4
    assert choose_processes(dataclasses.replace(STEPS, batch_growth=((0.5, 1024),)), Hardware(device="cuda"))[0] == 2
    assert choose_processes(STEPS, CPU)[0] == 1
    with pytest.raises(ConfigError, match=r"processes: found 8, needed at most the 6 GPUs"):
        choose_processes(STEPS, Hardware(device="cuda", processes=8))


def test_compilation_is_chosen_with_a_reason() -> None:
    assert choose_compile(Hardware(), torch.device("cpu")) == (False, "no GPU in use")
    assert choose_compile(Hardware(), torch.device("cuda"))[0]
    assert not choose_compile(Hardware(), torch.device("cuda"), kernels=True)[0]
    assert choose_compile(Hardware(compile="off"), torch.device("cuda")) == (False, "hardware.compile")
    assert choose_compile(Hardware(compile="on"), torch.device("cpu"))[0]


def test_tokens_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    check(config)
    with pytest.raises(DataError, match=r"train_000000.bin: found token 60, needed 0 to 49"):
        check(dataclasses.replace(config, vocab_size=50))
    with pytest.raises(DataError, match=r"bos_id 61, needed 0 to 60"):
        check(dataclasses.replace(config, bos_id=61))
    with pytest.raises(DataError, match=r"found token 60"):
        train(dataclasses.replace(config, vocab_size=60))


def test_too_few_tokens_for_a_step_are_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    (tmp_path / "shards" / "train_000001.bin").unlink()
    write_shard(tmp_path / "shards" / "train_000000.bin", np.ones(200, np.uint16))
    with pytest.raises(DataError, match=r"200 tokens of the split 'train', a step needs 257.*batch_tokens=192"):
        check(config)
    with pytest.raises(DataError, match=r"200 tokens"):
        train(config)


def test_sections_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.pack: found documents with model.document_mask = false.*Try"):
        check(make_config(tmp_path, pack="documents"))
    check(make_config(tmp_path, pack="documents", model={"document_mask": True}))


def test_windows_whose_documents_attention_cannot_count_are_refused(tmp_path: Path) -> None:
    """FlashAttention 3 ended the process: each token of a batch is a segment where none is known before."""
    large = {"micro_batch_tokens": 1 << 16, "batch_tokens": 1 << 16}
    with pytest.raises(ConfigError, match=r"train.micro_batch_tokens: found 65,536 in windows.*S train.pack=documents"):
        check(make_config(tmp_path, **large, model={"document_mask": True}))
    with pytest.raises(DataError, match="a step needs 65,537"):  # no more than that is wrong without the mask
        check(make_config(tmp_path, **large))
    with pytest.raises(ConfigError, match=r"train.loop_shares: found 1 for the 0 extra passes"):
        check(make_config(tmp_path, loop_shares=(0.5,)))


def test_a_gpu_without_bf16_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capability = (7, 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    config = dataclasses.replace(make_config(tmp_path), hardware=Hardware(device="cuda"))
    with pytest.raises(
        ConfigError, match=r"found Tesla T4 of compute capability 7.5, .*no bf16, needed 8.0.*device=cpu"
    ):
        check(config)
    capability = (8, 0)
    check(config)
    capability = (7, 5)
    check(dataclasses.replace(config, hardware=CPU))


def test_a_disk_too_small_for_the_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path)
    assert weights_bytes(config) == 4 * 4 * parameter_count(config)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(FairwayError, match="1,000 bytes free, needed") as caught:
        check(config)
    assert caught.value.code == Exit.IO


def test_an_output_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        check(dataclasses.replace(make_config(tmp_path), out=tmp_path / "file" / "out"))
