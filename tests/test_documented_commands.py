"""Every command of previa that a page shows can be given: its name, options and arguments are those of the command line."""

import re
import shlex
from pathlib import Path

import click
import pytest

from previa.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(?:console|bash)\n(.*?)```", re.S)


def commands(page):
    """The words of each `previa ...` in the page's blocks of commands; what a shell would compute stands as it is."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ )?(previa .*)", line)
            if found:
                yield shlex.split(found[1].split("|")[0], comments=True)


SHOWN = [(page.stem, words) for page in PAGES if page.stem != "cli" for words in commands(page)]


def test_the_pages_show_many_commands():
    assert len(SHOWN) > 35
    assert {"check", "validate", "revise", "view", "recommend", "preview", "export"} <= {
        words[1] for _, words in SHOWN
    }


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_of_a_page_is_one_of_the_command_line(page, words):
    called, words = cli, words[1:]
    while isinstance(called, click.Group) and words and not words[0].startswith("-"):
        called = called.commands[words.pop(0)]
    if any(word in ("...", "--help") for word in words):
        return  # said in outline only
    given = called.make_context(
        called.name, [re.sub(r"\$\w+", "0.5", word) for word in words]
    )  # raises where it is wrong
    assert given.args == []  # nothing is left that no option or argument took
