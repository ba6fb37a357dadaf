"""Writes `docs/reference/cli.md`, in the order of a manual page, from the program's own help: `make docs`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from conduit_oauth.cli.app import app
from conduit_oauth.cli.exits import EXIT_CODES, REFUSED

PLACE = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"
HEAD = """# The command line

`conduit-oauth [OPTIONS] COMMAND [ARGS]…`. Settings come from options, then `CONDUIT_OAUTH_*` variables, then
[the profile](settings.md#the-command-line). `--install-completion` installs completion for your shell, `NO_COLOR`
takes colours away, and what takes more than a second says so on a terminal. Results go to standard output, everything
else to standard error; no command prints a secret that was not asked for.
"""


def command_line() -> str:
    """The page, whole."""
    root = typer.main.get_command(app)
    return "\n".join([HEAD, *_commands(root, "conduit-oauth"), *_exit_codes()])


def _commands(group: click.Command, name: str) -> Iterator[str]:
    with click.Context(group, info_name=name) as context:
        for each in sorted(group.commands):  # type: ignore[attr-defined]
            command = group.commands[each]  # type: ignore[attr-defined]
            if hasattr(command, "commands"):
                yield from _commands(command, f"{name} {each}")
            else:
                yield from _command(command, f"{name} {each}", context)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    said, _, examples = inspect.cleandoc(command.help or "").partition("\b")
    yield f"## {name}\n"
    yield f"{' '.join(said.split())}\n"
    with click.Context(command, info_name=name.rpartition(" ")[2], parent=parent) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"**Synopsis:** `{name} {usage}`\n"
        rows = [record for parameter in command.get_params(context) if (record := _row(parameter, context))]
    if rows:
        yield "| option | meaning |\n| --- | --- |"
        yield "\n".join(rows) + "\n"
    if lines := [line.strip() for line in examples.splitlines() if line.strip()]:
        yield "**Examples:**\n"
        yield "\n".join(f"- `{line}`" for line in lines) + "\n"


def _row(parameter: click.Parameter, context: click.Context) -> str | None:
    record = parameter.get_help_record(context)
    if record is None or "--help" in record[0]:
        return None
    return "| " + " | ".join(_cell(text) for text in (f"`{record[0].strip()}`", record[1])) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _exit_codes() -> Iterator[str]:
    yield "## Exit status\n"
    yield "| code | when |\n| --- | --- |\n| 0 | done |"
    for kind, code in sorted(EXIT_CODES, key=lambda each: each[1]):
        words = inspect.cleandoc(kind.__doc__ or "").splitlines()[0] if code != 1 else "It failed otherwise."
        yield f"| {code} | {words} |"
    yield f"| {REFUSED} | `request`: the resource answered 400 or above. |\n"


if __name__ == "__main__":
    PLACE.write_text(command_line(), encoding="utf-8")
