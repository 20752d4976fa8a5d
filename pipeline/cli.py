"""The command ``fairway``: arguments only. Each verb imports what it does when it is called.

A verb, or a group of them, is a function ``add(app)``; :func:`build` names all, and ``fairway --help`` pays for none of
what they import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from golf.runtime.errors import run_main
from pipeline.campaign.commands import add as add_campaign


def build() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        help="Plan, check, compare and keep runs of byte-capped language models.\n\n"
        "The graph itself is DVC's: dvc repro.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: rich is a third of the start
    )
    for add in (add_use, add_doctor, add_save, add_campaign, add_report):
        add(app)
    return app


def add_use(app: typer.Typer) -> None:
    """``fairway use``."""

    @app.command(epilog="Example: fairway use record; git diff params.yaml")
    def use(
        profile: Annotated[str, typer.Argument(help="A file of profiles/ without .yaml, or default.")] = "",
        list_: Annotated[bool, typer.Option("--list", help="Every profile, with what it is.")] = False,
    ) -> None:
        """Write a profile into params.yaml; comments and keys that no profile names stay."""
        from pipeline import use

        print(use.listing() if list_ else use.switch(profile))


def add_doctor(app: typer.Typer) -> None:
    """``fairway doctor``."""

    @app.command(epilog="Example: fairway doctor --json > doctor.json")
    def doctor(
        json: Annotated[bool, typer.Option("--json", help="JSON instead of lines, with the numbers found.")] = False,
    ) -> None:
        """Check machine, disks, data, remote, services and cost before a run; exit code 1 when anything fails."""
        from pipeline.doctor.report import diagnose

        if not diagnose(as_json=json):
            raise typer.Exit(1)


def add_save(app: typer.Typer) -> None:
    """``fairway save``."""

    @app.command(epilog="Example: fairway save && sudo poweroff")
    def save() -> None:
        """Push cache, logs, experiments and MLflow's files to the remotes, and read back what they hold."""
        from pipeline.save import save

        save()


def add_report(app: typer.Typer) -> None:
    """``fairway report``."""

    @app.command(epilog="Example: fairway report --records ../parameter-golf --out report.html")
    def report(
        out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
        records: Annotated[
            Path | None,
            typer.Option(help="A checkout of the challenge, or JSON of fairway records; else logs/records.json."),
        ] = None,
    ) -> None:
        """Write the lab report: one HTML file that opens offline, with every run, score, byte, second and finding."""
        from pipeline.report.verb import write

        for line in write(out, records, Path.cwd()):
            typer.echo("".join(character if character.isprintable() else "?" for character in line))


def main() -> None:
    """What pyproject.toml calls ``fairway``."""
    run_main("fairway", build())


if __name__ == "__main__":
    main()
