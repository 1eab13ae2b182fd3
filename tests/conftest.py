"""What all tests share: no network, and one thread each, since pytest-xdist runs one process a core."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def caught(monkeypatch, tmp_path):
    """caught(draw, *args, **options) -> the figure, before it is a file."""
    found = []

    def draw(picture, *args, **options):
        monkeypatch.setitem(picture.__globals__, "save", lambda made, path: found.append(made))
        picture(*args, tmp_path / "a.png", **options)
        found[-1].canvas.draw()
        return found.pop()

    return draw
