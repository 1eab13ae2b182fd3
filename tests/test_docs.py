"""Every Python block of the README and the docs runs, and the generated reference is up to date."""

import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from mktestdocs import check_md_file

from previa.study.file import study_from_dict

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_md_file(page, memory=True)
    assert page.read_text(encoding="utf-8").strip()


def test_the_study_file_page_names_every_key_with_its_default():
    block = (
        (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    )
    shown = study_from_dict(tomllib.loads(block))
    for section in ("finetune", "adamw", "mixture", "preview", "truth", "recommend"):
        default = type(getattr(shown, section))()
        assert getattr(shown, section) == default, section
        for key in (f.name for f in fields(default)):
            assert f"\n{key} = " in block, f"[{section}] {key} is not on the page"


def test_the_command_line_reference_is_up_to_date():
    made = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_reference.py", "--check"], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
