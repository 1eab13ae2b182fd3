"""Write docs/cli.md from the commands' own help; with --check only say whether it is up to date."""

import sys
from pathlib import Path

import click

from previa.cli import cli

PAGE = Path(__file__).parent / "cli.md"


def sections(command: click.Command, name: str, depth: int) -> list[str]:
    context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
    text = [f"{'#' * depth} {name}", "", "```text", command.get_help(context).replace("\b\n", ""), "```", ""]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            text += sections(command.commands[child], f"{name} {child}", 2)
    return text


def main() -> int:
    made = "\n".join(["<!-- made by docs/make_reference.py: do not edit -->", *sections(cli, "previa", 1)])
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != made:
            print("docs/cli.md is not what the commands say: run `python docs/make_reference.py`.")
            return 1
        return 0
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
