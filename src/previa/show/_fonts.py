"""Letters that matplotlib's own font lacks, as those of Chinese, Japanese, Korean or Hindi names, from a font of the system."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

FIRST = "DejaVu Sans"  # matplotlib's own: every picture is written in it
KNOWN = (  # the first one that has a letter; then any other of the system
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "IPAGothic", "Droid Sans Fallback",
    "Noto Sans", "Arial Unicode MS",
)  # fmt: skip
BOXES = ("Last Resort", "Emoji", "Blank")  # fonts whose letters are boxes, or pictures that cannot be drawn


def readable(made: Any) -> None:
    """Give every text of a figure the fonts that have its letters; a letter that none has stays a box."""
    from matplotlib.text import Text

    for text in made.findobj(Text):
        letters = "".join(sorted({letter for letter in text.get_text() if ord(letter) > 127}))
        if letters and (others := fallbacks(letters)):
            text.set_family([FIRST, *others])


@lru_cache(maxsize=512)
def fallbacks(letters: str) -> tuple[str, ...]:
    """The families of the system that have those of these letters that matplotlib's own font lacks."""
    from matplotlib.font_manager import findfont, fontManager

    missing = {ord(letter) for letter in letters} - _has(findfont(FIRST), letters)
    if not missing:
        return ()
    fonts = [font for font in fontManager.ttflist if not any(word in font.name for word in BOXES)]
    rank = {name: i for i, name in enumerate(KNOWN)}
    found: list[str] = []
    for font in sorted(
        fonts, key=lambda f: (rank.get(f.name, len(KNOWN)), "Sans" not in f.name, f.name, f.fname)
    ):
        if font.name not in found and (here := missing & _has(font.fname, letters)):
            found.append(font.name)
            missing -= here
        if not missing:
            break
    return tuple(found)


def _has(file: str, letters: str) -> set[int]:
    """The code points of those letters that a font file has; none where it cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(file)
    except (OSError, RuntimeError):  # a file that is gone, or of a format that cannot be drawn
        return set()
    return {ord(letter) for letter in letters if font.get_char_index(ord(letter))}


@contextmanager
def no_font_warnings() -> Iterator[None]:
    """A letter that no font has is drawn as a box; the HTML report shows it with the reader's own fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
