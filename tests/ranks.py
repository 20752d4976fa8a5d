"""Real ranks of gloo, each a process, for tests of what they compute together."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Torch is imported once, and each rank is a fork: torchrun imports it again in each, a second and more of a core. As
# with torchrun the ranks meet at a store of the process above them. It listens before they begin, on a port that the
# kernel chose for it and that nobody else can have: a port looked up first and bound later can be lost in between.
FORKS = """
import os, sys, traceback
import torch.distributed
import golf.train.loop

program, count = sys.argv[1], int(os.environ["WORLD_SIZE"])
del sys.argv[1]
store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
os.environ["MASTER_PORT"] = str(store.port)
ranks = {}
for rank in range(count):
    pid = os.fork()
    if pid:
        ranks[pid] = rank
        continue
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        exec(compile(program, "rank", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)
while ranks:
    pid, status = os.wait()
    del ranks[pid]
    if status:
        for other in ranks:
            os.kill(other, 9)
        sys.exit(1)
"""


def run_ranks(count: int, *arguments: object, program: str) -> str:
    """What ``count`` ranks print that run ``program``, with the environment that torchrun gives them."""
    given = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **{name: str(value) for name, value in given.items()}}
    return _output([sys.executable, "-c", FORKS, program, *map(str, arguments)], environment)


def torchrun(count: int, *arguments: object, program: str) -> str:
    """The same by torchrun itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += [f"--nproc-per-node={count}", "--no-python", sys.executable, "-c", program, *map(str, arguments)]
    return _output(command, {**os.environ})


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout
