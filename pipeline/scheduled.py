"""What Prefect is told of the flows in :mod:`pipeline.flows`: tasks, retries, states, hooks."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golf.params.base import PARAMS_FILE, load_seeds, read_document
from golf.runtime.errors import Exit, FairwayError
from pipeline import flows, notify, table
from pipeline.gpus import PATIENCE
from pipeline.preflight import preflight

RESUMED = "-resumed-"


def build() -> dict[str, Any]:
    """The flows by name. Imports Prefect."""
    from prefect import flow

    hooks: dict[str, Any] = {
        "on_completion": [told],
        "on_failure": [told],
        "on_cancellation": [told],
        "on_crashed": [told, resumed],
    }
    run = _tasks()
    return {name: flow(name=name.replace("_", "-"), **hooks)(function) for name, function in _flows(run).items()}


def told(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook: tell ``tracking.notify`` how the run ended. Read leniently, since a bad parameter may be the news."""
    try:
        section = read_document(PARAMS_FILE).get("tracking")
        where = section.get("notify") if isinstance(section, dict) else ""
        said = "" if state.is_completed() else state.message or ""
        notify.tell(str(where or ""), notify.message(flow.name, flow_run.name, state.name or "", said))
    except (FairwayError, OSError) as error:
        logging.getLogger("prefect").warning("nobody was told: %s", error)


def resumed(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook of a run whose engine died: a run of the same name and parameters, which goes on where it was.

    A new one, as the worker will yet say of the old that it crashed; once only, however often this is called for it.
    """
    from prefect.client.orchestration import get_client

    name, count = again(flow_run.name)
    if flow_run.deployment_id is None or count > flows.RESUMES:
        return
    with get_client(sync_client=True) as client:
        client.create_flow_run_from_deployment(
            flow_run.deployment_id, parameters=flow_run.parameters, name=name,
            idempotency_key=f"resumed-{flow_run.id}",
        )  # fmt: skip


def again(name: str) -> tuple[str, int]:
    """The name of the run that goes on where the one of this name ended, and which resumption that is."""
    found = re.fullmatch(rf"(.+){RESUMED}(\d+)", name)
    first, times = (found[1], int(found[2])) if found else (name, 0)
    return f"{first}{RESUMED}{times + 1}", times + 1


def outcome(error: FairwayError) -> Any:
    """The state of a flow run that ends in this error."""
    from prefect.states import Failed

    name = error.state if isinstance(error, flows.StageFailed) else flows.STATES.get(error.code, "Failed")
    return Failed(name=name, message=str(error))


def _tasks() -> dict[str, Callable[..., Any]]:
    """The tasks: retried when the machine failed, never cached."""
    from prefect import get_run_logger, task
    from prefect.cache_policies import NO_CACHE
    from prefect.tasks import exponential_backoff

    def machine_failed(_task: Any, _run: Any, state: Any) -> bool:
        error = state.result(raise_on_failure=False)
        return isinstance(error, FairwayError) and error.code == Exit.RETRY

    supervised = task(
        retries=flows.RETRIES,
        retry_delay_seconds=exponential_backoff(flows.FIRST_DELAY),
        retry_jitter_factor=0.3,
        retry_condition_fn=machine_failed,
        cache_policy=NO_CACHE,
    )

    @supervised
    def repro(group: list[str]) -> None:
        log = get_run_logger()
        flows.reproduce(group, log.info, log.error, PATIENCE)

    @supervised
    def exp_run(overrides: list[str]) -> str:
        log = get_run_logger()
        return flows.experiment(overrides, log.info, log.error, PATIENCE)

    @supervised
    def sweep_run(words: list[str]) -> None:
        log = get_run_logger()
        flows.swept(words, log.info, log.error, PATIENCE)

    return {"repro": repro, "exp_run": exp_run, "sweep_run": sweep_run}


def _flows(run: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """The flows as plain functions."""
    from prefect import get_run_logger
    from prefect.artifacts import create_markdown_artifact
    from prefect.states import Completed

    def nightly() -> Any:
        """Bring the workspace's graph up to date, group by group."""
        untracked = ""
        try:
            preflight()
            for group in flows.GROUPS:
                run["repro"].with_options(name=" ".join(group))(list(group))
        except flows.StageFailed as error:
            if not (str(error).startswith("track: ") and error.code == Exit.RETRY):
                return outcome(error)
            untracked = str(error)  # all the rest is there, and the next run tries again
        except FairwayError as error:
            return outcome(error)
        seeds = load_seeds()
        text = f"{table.markdown(table.rows(seeds))}\n\n{table.verdict(seeds)}"
        create_markdown_artifact(text, key="result", description="The result table")
        return Completed(name="NotTracked", message=untracked) if untracked else None

    def on_demand(overrides: list[str] | None = None) -> Any:
        """One experiment with DVC overrides, such as quant.bits=5, apart from the workspace."""
        try:
            name = run["exp_run"].with_options(name=" ".join(overrides or ["as it is"])[:200])(overrides or [])
        except FairwayError as error:
            return outcome(error)
        get_run_logger().info("kept as experiment %s. See: dvc exp show; take it over: dvc exp apply %s", name, name)
        return None

    def weekly_record(profile: str = "record", overrides: list[str] | None = None) -> Any:
        """One experiment with a profile's parameters on top of params.yaml, and overrides on top of those."""
        try:
            return on_demand([*flows.profile_overrides(profile), *(overrides or [])])
        except FairwayError as error:
            return outcome(error)

    def sweep(file: str, hours: float | None = None, dollars: float | None = None, retry: bool = False) -> Any:
        """The sweep of a YAML file, or what is left of it; hours and dollars come before the file's."""
        limits = [("--hours", hours), ("--dollars", dollars)]
        words = [file, *(word for name, value in limits if value is not None for word in (name, str(value)))]
        try:
            run["sweep_run"].with_options(name=Path(file).stem)([*words, *(["--retry"] if retry else [])])
        except FairwayError as error:
            return outcome(error)
        return None

    return {"nightly": nightly, "weekly_record": weekly_record, "sweep": sweep, "on_demand": on_demand}
