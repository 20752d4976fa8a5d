import dataclasses
import errno
import re
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from golf.data.shards import read_shard, write_shard
from golf.params.base import Section
from golf.params.hardware import Hardware
from golf.runtime.errors import DataError
from golf.train import checkpoint, loop
from golf.train.checkpoint import Checkpoint, Store, forget, read, run_key, source_digest, write
from golf.train.loop import train
from golf.train.plan import TrainConfig
from golf.train.run import Run
from tests.golf.train.tiny import files, make_config, write_shards

TENSORS = {"a/w": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "rng/cpu": torch.arange(9, dtype=torch.uint8)}


class Interrupted(Exception):
    pass


def interrupt(config: TrainConfig, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train as if the process had died when it came to step ``at``."""
    original = loop.take_step

    def take_step(run: Run, step: int, *rest: Any) -> None:
        if step == at:
            raise Interrupted
        original(run, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", take_step)
        with pytest.raises(Interrupted):
            train(config)


def saved(folder: Path, steps: range) -> list[Path]:
    lines: list[str] = []
    with Store(folder, 0.0, lines.append) as store:
        for step in steps:
            store.save(step, step / 2, [[step, 1.5]], TENSORS)
    assert not lines
    return sorted(folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    written = Checkpoint(12, 3.25, [[1, 0.1], [2, 1e-17]], TENSORS)
    write(tmp_path / "step-00000012.safetensors", written)
    found = read(tmp_path / "step-00000012.safetensors")
    assert (found.step, found.rank_seconds, found.rows) == (written.step, written.rank_seconds, written.rows)
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in TENSORS.items())


def test_the_last_two_are_kept_and_what_comes_later_does_not_change_them(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(3)}
    with Store(tmp_path / "key", 0.0, print) as store:
        store.save(1, 0.0, [], tensors)
        tensors["w"] += 1
    assert read(tmp_path / "key" / "step-00000001.safetensors").tensors["w"].tolist() == [0, 0, 0]
    paths = saved(tmp_path / "key", range(2, 12))
    assert [path.name for path in paths] == ["step-00000010.safetensors", "step-00000011.safetensors"]
    forget(tmp_path / "key")
    forget(tmp_path / "key")
    forget(None)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "header", "text", "format"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    *_, path = saved(tmp_path, range(1, 3))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-7] ^= 1
    elif damage == "header":
        content[3] ^= 0x40
    content = {"cut": content[:-1], "empty": bytearray(), "text": bytearray(b"hello")}.get(damage, content)
    path.write_bytes(content)
    if damage == "format":
        safetensors.torch.save_file(TENSORS, path, metadata={"checkpoint": '{"format": 1}'})
    lines: list[str] = []
    found = Store(tmp_path, 0.0, lines.append).latest()
    assert found is not None
    assert found.step == 1
    assert len(lines) == 1
    assert "step-00000002.safetensors: damaged (" in lines[0]


def test_what_a_killed_writer_left_is_ignored_and_removed(tmp_path: Path) -> None:
    saved(tmp_path, range(1, 2))
    left = tmp_path / ".step-00000005.safetensors.x1y2z3.partial"
    left.write_bytes(b"half")
    store = Store(tmp_path, 0.0, print)
    assert store.last_step == 1
    assert not left.exists()
    assert Store(tmp_path / "new", 0.0, print).latest() is None


def test_a_full_or_unwritable_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lines: list[str] = []
    (tmp_path / "file").write_text("")
    with Store(tmp_path / "file" / "key", 0.0, lines.append) as store:
        store.save(1, 0.0, [], TENSORS)
    assert "not written" in lines[0]
    expected = train(make_config(tmp_path))
    monkeypatch.setattr(checkpoint, "whole_file", full)
    result = train(make_config(tmp_path, checkpoint_seconds=1e-9))
    assert result.curve == expected.curve
    assert result.checkpoints is not None
    assert not list(result.checkpoints.iterdir())


def test_checkpoints_leave_the_disk_room_for_what_the_run_writes_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that took the weights when the run began, they would fill it, and the last step would find it full."""
    tensors = {"model/w": torch.zeros(300_000), "averages/w": torch.zeros(300_000), "optimizer/w": torch.zeros(400_000)}
    one, weights = 4_000_000, 2_400_000
    disk = 0

    def usage(folder: Path) -> shutil._ntuple_diskusage:
        used = sum(path.stat().st_size for path in folder.iterdir())
        return shutil._ntuple_diskusage(disk, used, disk - used)

    def steps(folder: Path) -> list[int]:
        with Store(folder, 0.0, lines.append) as store:
            for step in range(1, 5):
                store.save(step, 0.0, [], tensors)
        return sorted(int(path.stem[5:]) for path in folder.iterdir())

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", usage)
    lines: list[str] = []
    head = 10_000
    disk = 3 * one + weights + checkpoint.MARGIN + head
    assert steps(tmp_path / "two") == [3, 4]
    disk -= one
    assert steps(tmp_path / "one") == [3, 4], "the older one has gone before the newest was written"
    assert not lines
    disk -= 2 * head
    assert steps(tmp_path / "stale") == [1]
    assert len(lines) == 3
    assert re.search(r"step-00000002.*not written.*bytes free, needed [\d,]+: 2,400,000 for the run's result", lines[0])


def test_damaged_ones_of_later_steps_do_not_push_out_what_is_written_now(tmp_path: Path) -> None:
    for path in saved(tmp_path, range(20, 22)):
        path.write_bytes(b"damaged")
    lines: list[str] = []
    with Store(tmp_path, 0.0, lines.append) as store:
        assert store.latest() is None
        store.save(3, 0.0, [], TENSORS)
        store.save(4, 0.0, [], TENSORS)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-00000003.safetensors",
        "step-00000004.safetensors",
    ]


def test_they_are_not_taken_more_often_than_asked(tmp_path: Path) -> None:
    assert not Store(tmp_path, 1000.0, print).due()
    assert Store(tmp_path, 0.0, print).due()


@pytest.mark.parametrize("at", [5, 10])
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before late QAT, and in it."""
    config = make_config(tmp_path, checkpoint_seconds=1e-9)
    expected = train(dataclasses.replace(config, checkpoints=None))
    whole = files(tmp_path / "out")
    interrupt(dataclasses.replace(config, out=tmp_path / "resumed"), at, monkeypatch)
    assert not (tmp_path / "resumed").exists()
    result = train(dataclasses.replace(config, out=tmp_path / "resumed"))
    assert result.resumed
    assert result.timing["resumed"]
    assert files(tmp_path / "resumed") == whole
    assert result.curve == expected.curve


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 12))
def test_a_run_resumed_at_any_step_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    config = make_config(tmp_path, log_every=1, checkpoint_seconds=1e-9)
    expected = train(dataclasses.replace(config, checkpoints=None))
    whole = files(tmp_path / "out")
    monkeypatch.setattr(Store, "due", lambda _: True)  # also where the disk has not finished the one before
    interrupt(config, at, monkeypatch)
    last = Store(tmp_path / "checkpoints" / key(config), 0.0, print).latest()
    assert last is not None
    assert last.step == at
    result = train(dataclasses.replace(config, out=tmp_path / "resumed"))
    assert files(tmp_path / "resumed") == whole
    assert result.curve == expected.curve


def test_a_resumed_run_by_the_clock_counts_the_seconds_already_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, steps=0, seconds=1.0, log_every=1, checkpoint_seconds=1e-9)
    interrupt(config, 3, monkeypatch)
    key = next((tmp_path / "checkpoints").iterdir())
    last = Store(key, 0.0, print).latest()
    assert last is not None
    assert 0 < last.rank_seconds < 1.0
    result = train(config)
    assert result.resumed
    assert result.steps > last.step
    assert last.rank_seconds < result.timing["clock_seconds"] < 1.1


def key(config: TrainConfig) -> str:
    return run_key(config.determining(), config.shards)


SPECIAL = {
    "qat_embed_bits": 7,
    "batch_tokens": 512, "micro_batch_tokens": 128, "seq_len": 64, "gpus": 2, "num_heads": 4, "num_kv_heads": 2,
    "dim": 64, "rope_dims": 4, "num_layers": 3, "value_embed_layers": 1, "seq_growth": ((0.5, 16),),
    "batch_growth": ((0.5, 128),), "loop_shares": (0.5,), "loop_last": 0, "parallel_from": 1,
    "newton_schulz": "polar_express",
}  # fmt: skip


def other(value: object, name: str, hint: object) -> object:
    """A value that differs and that the section accepts."""
    if typing.get_origin(hint) is typing.Literal:
        return next(option for option in typing.get_args(hint) if option != value)
    if name in SPECIAL:
        return SPECIAL[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 if value else 0.125
    assert isinstance(value, tuple), name
    return value[:-1]


@pytest.mark.parametrize("section", ["model", "optim", "train"])
def test_every_parameter_changes_the_key(tmp_path: Path, section: str) -> None:
    config = make_config(tmp_path, seq_len=32)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, loop_last=1))
    keys = {key(config)}
    values: Section = getattr(config, section)
    hints = typing.get_type_hints(type(values))
    names = [field.name for field in dataclasses.fields(values) if field.name != "spike_nats"]  # type: ignore[arg-type]
    for name in names:
        changed = dataclasses.replace(values, **{name: other(getattr(values, name), name, hints[name])})  # type: ignore[type-var]
        keys.add(key(dataclasses.replace(config, **{section: changed})))
    assert len(keys) == 1 + len(names)


def test_the_key_knows_seed_data_and_code_and_not_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path)
    first = key(config)
    hardware = Hardware(device="cuda", processes=8, threads=3, attention="flash", compile="on", strict_clock=True)
    moved = dataclasses.replace(config, hardware=hardware, out=tmp_path / "elsewhere", checkpoints=None)
    assert key(moved) == first
    assert key(dataclasses.replace(moved, shards=write_shards(tmp_path / "copy"))) == first
    assert key(dataclasses.replace(config, seed=8)) != first
    assert key(dataclasses.replace(config, vocab_size=62)) != first
    tokens = read_shard(config.shards / "train_000001.bin").copy()
    tokens[1234] += 1
    write_shard(config.shards / "train_000001.bin", tokens)
    assert key(config) != first
    write_shards(config.shards)
    assert key(config) == first
    digest = source_digest()
    monkeypatch.setattr(checkpoint, "SOURCES", checkpoint.SOURCES[:-1])
    assert source_digest() != digest


def test_only_the_own_key_is_resumed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(make_config(tmp_path, checkpoint_seconds=1e-9), 9, monkeypatch)
    assert not train(make_config(tmp_path, checkpoint_seconds=2e-9)).resumed


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts one into the folder of a run gets one line, and no run on half of its tensors."""
    config = make_config(tmp_path, checkpoint_seconds=1e-9)
    folder = tmp_path / "checkpoints" / key(config)
    interrupt(config, 9, monkeypatch)
    newest = max(folder.iterdir())
    found = read(newest)
    others = {
        "model/embed.weight": (torch.zeros(60, 32), r"embed.weight is \(60, 32\), needed \(61, 32\)"),
        "run/place": (None, r"run/place"),
        "averages/ema-0.5/embed.weight": (torch.zeros(61, 32), r"averages: .*ema-0.5/embed.weight"),
    }
    for name, (tensor, message) in others.items():
        tensors = {**found.tensors, name: tensor} if tensor is not None else {**found.tensors}
        if tensor is None:
            del tensors[name]
        write(newest, dataclasses.replace(found, tensors=tensors))
        with pytest.raises(DataError, match=f"step {found.step}: .*({message}).*Try: rm -r .*{folder.name}"):
            train(config)
    assert not (tmp_path / "out").exists()
