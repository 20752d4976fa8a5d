import pytest
import torch

from golf.params.hardware import Hardware
from golf.runtime.device import describe, prepare
from golf.runtime.errors import ConfigError


def test_threads_are_set_and_told() -> None:
    before = torch.get_num_threads()
    try:
        device = prepare(Hardware(device="cpu", threads=1))
        assert device.type == "cpu"
        assert describe(device) == "cpu, 1 threads"
        prepare(Hardware(device="cpu", threads=0))
        assert torch.get_num_threads() == 1, "0 leaves the threads as they are"
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_an_absent_gpu_is_refused_when_asked_for_and_no_matter_otherwise() -> None:
    assert prepare(Hardware(device="auto")).type == "cpu"
    with pytest.raises(ConfigError, match=r"hardware.device=cuda: torch .*Try: .*hardware.device=auto"):
        prepare(Hardware(device="cuda"))
