"""A hang between ranks is a line within the time limit, and nothing of it is left."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from golf.machine import exchange as module
from golf.machine.exchange import exchange
from golf.params.hardware import Hardware
from golf.runtime.errors import Exit, FairwayError
from golf.runtime.files import write_json


def hangs(_hardware: Hardware, folder: Path) -> None:
    if not (folder / "first").exists():
        (folder / "first").touch()
        return
    time.sleep(60)


def dies(_hardware: Hardware, _folder: Path) -> None:
    os._exit(3)


def tells(_hardware: Hardware, folder: Path) -> None:
    write_json(folder / "failure.json", {"code": 75, "message": "no first exchange over gloo"})


def answers(hardware: Hardware, folder: Path) -> None:
    write_json(folder / "0.json", {"gb_per_s": hardware.nccl_timeout})
    os._exit(0)  # without the exit handlers of what other tests imported before the fork


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (hangs, r"no all-reduce within 0\.3 s: rank \d of 2 hangs; hardware\.nccl: NCCL_NET=Socket\. Try: "),
        (dies, "ranks of the all-reduce ended: 0 with 3, 1 with 3"),
        (tells, "^no first exchange over gloo$"),
    ],
)
def test_what_goes_wrong_is_one_error_in_time(body: module.Body, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE", 0.2)
    hardware = Hardware(nccl={"NCCL_NET": "Socket"})
    begin = time.monotonic()
    with pytest.raises(FairwayError, match=said) as caught:
        exchange(hardware, 2, 0.3, on_gpu=False, body=body)
    assert caught.value.code == Exit.RETRY
    assert time.monotonic() - begin < 5
    for child in multiprocessing.active_children():
        child.join(5)
        assert not child.is_alive()


def test_the_ranks_get_the_limit_and_the_answer_comes_back() -> None:
    found = exchange(Hardware(), 2, 7.0, on_gpu=False, body=answers)
    assert (found["backend"], found["ranks"], found["gb_per_s"]) == ("gloo", 2, 7.0)
