"""The command line: thin commands over the library, imports inside them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from previa import __version__
from previa.cli import study
from previa.cli._options import InOrder
from previa.cli.anchors import anchors, refine
from previa.cli.check import check
from previa.cli.export import export
from previa.cli.finetune import finetune
from previa.cli.merge import merge
from previa.cli.posterior import posterior
from previa.cli.preview import preview
from previa.cli.results import compare, recommend, report
from previa.cli.revise import revise
from previa.cli.validate import validate
from previa.cli.view import view
from previa.errors import PreviaError


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Previews of multitask finetuning for every task weighting.

    Finetune each task once, keep a posterior, and merge them for all weightings.

    \b
    Examples:
      previa demo --out demo-out     the whole job on handwritten digits, in about a minute
      previa run study.toml          the same for your own model and tasks
    """


for command in (
    study.demo, study.run, check, study.fit, preview, anchors, refine, recommend, compare, validate,
    revise, report, view, finetune, merge, posterior, export,
):  # fmt: skip
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 an error in one sentence, 2 wrong usage, 130 stopped."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given  # wherever it stands
    try:
        code = cli.main(
            [word for word in given if word != "--debug"], prog_name="previa", standalone_mode=False
        )
    except click.UsageError as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("previa: stopped. What is done is kept; the same command goes on from there.", err=True)
        code = 130
    except PreviaError as error:
        if debug:
            raise
        click.echo("previa: " + " ".join(str(error).split()), err=True)
        code = 1
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split())
        click.echo(
            f"previa: an error that should not happen, {type(error).__name__}: {message}. "
            "Run again with --debug for the traceback, and please report it.",
            err=True,
        )
        code = 1
    return int(code or 0)


def run_main() -> None:
    """The entry point of the `previa` command."""
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, as `head`, has had enough: what is left has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
