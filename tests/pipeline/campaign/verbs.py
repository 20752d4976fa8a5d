"""The campaign's verbs, called as from a terminal."""

import typer
from typer.testing import CliRunner

from pipeline.campaign import commands


def run(*arguments: str) -> str:
    """What a verb prints; it must end well."""
    app = typer.Typer()
    commands.add(app)
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output
