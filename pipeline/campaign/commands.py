"""The verbs of ``fairway`` around runs of the graph: noise, compare, records, sweep, ablate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from golf.runtime.errors import ConfigError


def add(app: typer.Typer) -> None:
    """Register the verbs; what each of them needs is imported when it runs."""
    for verb in (noise, compare, records, sweep, ablate):
        app.command()(verb)


def noise(
    effect: Annotated[float | None, typer.Option(help="A gain in bpb: how many seeds does it need?")] = None,
    best: Annotated[str | None, typer.Option(help="K:N, what choosing the best K of N seeds adds by luck.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure the noise floor of the runs in MLflow, and what a number of seeds can show above it.

    Example: fairway noise --effect 0.002 --best 3:5
    """
    from pipeline.campaign import noise as verb

    content = verb.report(verb.measure(Path.cwd()), effect, None if best is None else _best(best))
    _finish(verb.lines(content), content, json_file)


def compare(
    a: Annotated[str, typer.Argument(help="DVC experiment or revision, MLflow run, baseline, or records folder.")],
    b: Annotated[str, typer.Argument(help="What it is held against.")],
    best: Annotated[int | None, typer.Option(help="Only A's so many best seeds; p then knows of the choice.")] = None,
    of: Annotated[int | None, typer.Option(help="How many seeds of A were run, if more than are known.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Compare two results: parameters, seeds, tests, bytes, seconds, dollars, and one sentence that knows the noise.

    Example: fairway compare mossy-vole pr1019
    """
    from pipeline.campaign import compare as verb

    if of is not None and of < 1:
        raise ConfigError(f"--of: found {of}, needed at least 1 seed", hint="fairway compare A B --best 3 --of 5")
    result = verb.compare_sides(a, b, Path.cwd(), best, of)
    _finish(verb.lines(result), verb.as_json(result), json_file)


def records(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A checkout of the challenge, or part of it.")],
    sources: Annotated[bool, typer.Option("--sources", help="Under the table, the line behind each number.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Import the public challenge's records into a leaderboard: scores recomputed, findings named.

    Example: fairway records ../parameter-golf --json leaderboard.json
    """
    from pipeline.campaign.published import leaderboard as verb

    board = verb.read_checkout(directory)
    text = [*verb.columns(board), "", *verb.summary(board)]
    _finish([*text, *(["", *verb.sources(board)] if sources else [])], verb.as_json(board), json_file)


def sweep(
    file: Annotated[Path | None, typer.Argument(help="A YAML file: see docs/cli.md.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("-S", "--set-param", metavar="KEY=V1,V2", help="A grid, without a file.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of a grid; a file has its own.")] = "",
    jobs: Annotated[int, typer.Option(min=0, help="Runs at once; 0: as many as devices or cores allow.")] = 0,
    hours: Annotated[float | None, typer.Option(help="Stop when these are spent.")] = None,
    dollars: Annotated[float | None, typer.Option(help="Stop when these are spent.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed candidates again.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the ledger to this file.")] = None,
) -> None:
    """Run many experiments, or go on with a sweep that was interrupted; exit code 1 when it could not be completed.

    Example: fairway sweep -S quant.bits=5,6 -S optim.matrix_lr=0.01,0.02 --hours 8
    """
    from pipeline.campaign.sweep import ledger
    from pipeline.campaign.sweep import verb as sweeping

    wanted = sweeping.sweep_of(file, options or [], name, hours, dollars)
    found = sweeping.run(wanted, jobs=jobs, retry=retry, tell=lambda line: _finish([line], None, None))
    _finish(["", *ledger.lines(found)], found, json_file)
    if not found["complete"]:
        raise typer.Exit(1)


def ablate(
    switches: Annotated[
        list[str] | None, typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="A switch; repeat it for more.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the sweep that runs them.")] = "ablate",
    jobs: Annotated[int, typer.Option(min=0, help="Runs at once; 0: as many as devices or cores allow.")] = 0,
    hours: Annotated[float | None, typer.Option(help="Stop when these are spent.")] = None,
    dollars: Annotated[float | None, typer.Option(help="Stop when these are spent.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed candidates again.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Run one switch at a time against params.yaml as it is, and print what each is worth above the noise.

    Example: fairway ablate -S model.smear_gate=false -S quant.bits=5
    """
    from pipeline.campaign import ablate as verb
    from pipeline.campaign.sweep import ledger

    wanted = verb.sweep_of(switches or [], name, hours, dollars)
    found = verb.run(wanted, jobs=jobs, retry=retry, tell=lambda line: _finish([line], None, None))
    _finish(["", *ledger.lines(found["ledger"]), "", *verb.lines(found)], found, json_file)
    if not found["ledger"]["complete"]:
        raise typer.Exit(1)


def _best(text: str) -> tuple[int, int]:
    first, _, second = text.partition(":")
    if not (first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second) <= 1000):
        raise ConfigError(
            f"--best: found {text!r}, needed K:N with 1 <= K <= N <= 1000", hint="fairway noise --best 3:5"
        )
    return int(first), int(second)


def _finish(lines: list[str], content: Any, json_file: Path | None) -> None:
    """Print, then write the file. Foreign names may hold anything: nothing that moves the cursor is printed."""
    from golf.runtime.files import write_json

    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        text = "".join(character if character.isprintable() else "?" for character in line)
        typer.echo(text.encode(encoding, "replace").decode(encoding))
    if json_file is not None:
        write_json(json_file, content)
