"""What only a GPU does in the program that ships, on a CPU: a graph of steps or windows does its work again."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from golf.params.eval import Eval
from golf.params.hardware import Hardware
from tests.programs import shipped, with_artifact

# A process of its own: what the program registers with torch under golf's names would take the place of golf's.
CODE = """
import json, runpy, sys
from inspect import isfunction
from pathlib import Path
from types import SimpleNamespace
runpy.run_path("train_gpt.py", run_name="read")
program = sys.modules["train_gpt"]
functions = {name: value for name, value in vars(program).items() if isfunction(value)}

def only(found):  # names are short: what is looked for is known by what is in it
    (name,) = [name for name, value in functions.items() if found(value.__code__)]
    return name

class Replays:
    made = []
    def __init__(self, work, others=()):
        work()
        self.work, self.count = work, 0
        self.made.append(self)
    def replay(self):
        self.work()
        self.count += 1

record = only(lambda code: "CUDAGraph" in code.co_names)
recordable = only(lambda code: {"graphs", "fa3"} <= set(code.co_consts))
forward_of = only(lambda code: {"graphs", "kernels"} <= set(code.co_consts))
(recorded,) = [vars(program)[name] for name in functions[forward_of].__code__.co_names
               if isinstance(vars(program).get(name), type)]
config, hardware = (SimpleNamespace(**section) for section in json.load(sys.stdin))
tokens, _ = program.read_validation(Path("data/shards"), Path("data/tokenizer/bytes.safetensors"))
tokens = tokens[:600]
with program.opened(Path("model.golf"), hardware) as subject:
    for config.ttt in ("lora", "sgd"):
        scorer = program.scorer(subject.model, config)
        scorer.traced = False
        expected = scorer.score(tokens)
        assert not Replays.made
        before = dict(vars(program))
        on_gpu = {recordable: lambda model: True, forward_of: recorded}
        vars(program).update(on_gpu | {record: Replays})
        found = scorer.score(tokens)
        vars(program).update(before)
        print(json.dumps([float((found - expected).abs().max()), sum(graph.count for graph in Replays.made)]))
        Replays.made.clear()
"""


def test_the_program_scores_the_same_from_graphs(tmp_path: Path) -> None:
    with_artifact(tmp_path)
    (tmp_path / "train_gpt.py").write_bytes(shipped())
    config = Eval(
        seq_len=32, stride=16, batch_windows=2, ttt="lora", ttt_chunk_tokens=128, lora_rank=2, lora_lr=0.001,
        lora_documents=4, lora_chunk_tokens=4, lora_chunk_growth=0.0,
    )  # fmt: skip
    given = json.dumps([dataclasses.asdict(section) for section in (config, Hardware(device="cpu"))])
    command = [sys.executable, "-I", "-c", CODE]
    result = subprocess.run(command, cwd=tmp_path, input=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for apart, replays in map(json.loads, result.stdout.splitlines()[-2:]):
        assert apart == pytest.approx(0, abs=1e-3)
        assert replays > 5
