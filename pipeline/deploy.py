"""Register the work pools and the deployments of prefect.yaml: ``python -m pipeline.deploy``.

With the server that ``PREFECT_API_URL`` or Prefect's own profile names. Two pools: one run at a time on the machine's
GPUs, and as many beside it as there are cores for what needs none. Given again it leaves the pools as they are, and
makes the deployments, schedules too, what the file says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from golf.data.cores import available_cores
from golf.runtime.errors import Exit, FairwayError, run_main
from pipeline.supervise import with_this_python

GPU, CPU = "fairway-gpu", "fairway-cpu"
POOLS = (GPU, CPU)


def deploy(env: dict[str, str] | None = None) -> None:
    """Make the pools and register the deployments of the prefect.yaml in this folder.

    Raises:
        FairwayError: Prefect refused; its last lines are shown.
    """
    for pool, limit in ((GPU, 1), (CPU, available_cores())):
        try:
            prefect(env, "work-pool", "create", pool, "--type", "process")
        except FairwayError as error:
            if "already exists" not in " ".join(str(error).split()):
                raise
            continue  # as it is: with --overwrite a paused one would go on, and a changed template be lost
        prefect(env, "work-pool", "set-concurrency-limit", pool, str(limit))
    prefect(env, "--no-prompt", "deploy", "--all")


def prefect(env: dict[str, str] | None, *arguments: str) -> str:
    """What Prefect's command prints.

    Raises:
        FairwayError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env=with_this_python(env), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = last_lines(done.stdout + done.stderr)
        raise FairwayError(f"prefect {' '.join(arguments)}: {said}", hint="fairway doctor", code=Exit.RETRY)
    return done.stdout


def last_lines(text: str, count: int = 3) -> str:
    """The end of what a program said, in one line."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])


def main() -> None:
    """Register everything."""
    argparse.ArgumentParser(prog="python -m pipeline.deploy", description=(__doc__ or "").split("\n")[0]).parse_args()
    deploy()
    print(f"pools: {', '.join(POOLS)}. A worker each, in the checkout: prefect worker start --pool {GPU}")


if __name__ == "__main__":
    run_main("deploy", main)
