"""The doors between rooms (docs/architecture.md), and what starting up may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import previa

SOURCE = Path(previa.__file__).parent
MAY_IMPORT = {
    "core": set(),
    "fit": {"core"},
    "io": {"core"},
    "study": set(),
    "show": {"study"},
    "export": {"study"},
    "data": set(),
    "run": {"core", "fit", "io", "study", "data"},
}
NO_TORCH = {"study", "show", "export"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which room it opens"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_the_rooms_they_may(room):
    for path in sorted((SOURCE / room).rglob("*.py")):
        for name in imports(path):
            top, *rest = name.split(".")
            if top == "previa" and rest[0] not in {room, "errors"}:
                assert rest[0] in MAY_IMPORT[room] or rest == ["__version__"], f"{path.name} imports {name}"
            assert not (room in NO_TORCH and top in {"torch", "transformers", "peft"}), (
                f"{path.name} imports {name}"
            )


@pytest.mark.parametrize(
    "module", ["previa", "previa.cli", "previa.study.store", "previa.show.report", "previa.export.stacks"]
)
def test_starting_up_does_not_import_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def test_all_is_sorted_and_can_be_imported():
    assert list(previa.__all__) == sorted(previa.__all__)
    assert set(previa.__all__) == set(previa._HOMES)
    for name in previa.__all__:
        assert getattr(previa, name) is not None
    assert {*previa.__all__, "__version__"} <= set(dir(previa))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = previa.nothing
