"""What all pictures share: names of methods, colours, the pick, the colour levels, and how a figure is made and saved."""

import math
import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from previa.errors import FileError, InputError, MissingExtraError
from previa.show._fonts import no_font_warnings, readable
from previa.show._methods import parted
from previa.study.preference import Preference
from previa.study.quality import ranking

if TYPE_CHECKING:
    from previa.study.preview import Preview

Array = NDArray[np.float64]

TRUTH = "Joint finetuning (truth)"
LABELS = {
    "simple": "Simple averaging",
    "task_arithmetic": "Task arithmetic",
    "ivon_hessian": "Hessian-weighted, IVON",
    "squared_gradients": "Hessian-weighted, squared gradients",
    "regmean": "RegMean, input moments",
    "mixture": "Mixture-weighted, EM",
    "centre": "One look from the centre",
    "scores": "Interpolated scores",
    "scores_gp": "Gaussian process on scores",
    "warped": "Warped weights",
    "anchored": "Anchored at joint runs",
    "refined": "Refined by joint training",
    "corrected": "Corrected by true runs",
    "joint": TRUTH,
}

SHORT = {  # where there is no room for the long ones
    "simple": "Simple",
    "ivon_hessian": "Hessian, IVON",
    "squared_gradients": "Hessian, sq. grad.",
    "regmean": "RegMean",
    "mixture": "Mixture, EM",
    "centre": "Centre",
    "scores": "Scores",
    "scores_gp": "GP on scores",
    "warped": "Warped",
    "anchored": "Anchored",
    "refined": "Refined",
    "joint": "Truth",
}

INK, MUTED, RULE, PAPER = "#1d1c1a", "#6b675f", "#d9d4c8", "#ffffff"
MAP = "viridis"  # perceptually uniform, and ordered by lightness alone, so that no colour vision is needed
# Okabe and Ito's colours, without the yellow that vanishes on white; line styles repeat what the colours say.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))
PIXELS_PER_INCH = 140
PLAIN = Preference()  # the plain mean


def label(method: str) -> str:
    """The name of a method for a person: the known ones in words, any other as it is."""
    family, how = parted(method)
    if family and how:
        return f"{label(family)}, {how}"
    part = method.removeprefix("mixture_")
    if part != method and part.isdecimal():
        return f"Mixture of {part}, EM"
    return LABELS.get(method, method)


def plain(text: str, *, width: int = 18, lines: int = 2) -> str:
    """A name as matplotlib text: no mathematics, wrapped, and shortened in its middle when it is longer than that."""
    text = " ".join(text.split())
    room = width * lines
    if len(text) > room:
        text = f"{text[: room // 2 - 1].rstrip()}…{text[-(room // 2 - 1) :].lstrip()}"
    pieces = textwrap.wrap(
        re.sub(r"([_/\-.])(?=\S)", "\\1\u200b", text).replace("\u200b", " \u200b"), width + 2
    )
    if len(pieces) > lines:  # its words break badly: cut it into equal lengths instead
        pieces = textwrap.wrap(text, max(width, math.ceil(len(text) / lines)), break_on_hyphens=False)
    return "\n".join(pieces).replace(" \u200b", "").replace("\u200b", "").replace("$", r"\$")


@dataclass(frozen=True)
class Landscape:
    """What is drawn of one method: alphas [A, T], scores [A, T], their value [A] under a preference, what they took.

    short [A]: by how much floors are missed, None where there are none.
    """

    alphas: Array
    scores: Array
    mean: Array
    seconds: float
    short: Array | None = None

    @property
    def pick(self) -> int | None:
        """The row of the best value, as `compare` and `recommend` pick it; None if all failed."""
        good = np.flatnonzero(np.isfinite(self.mean))
        if self.short is not None and good.size:  # those that keep the floors, or miss them least
            good = good[self.short[good] <= self.short[good].min()]
        return int(good[ranking(self.mean[good], self.alphas[good])[0]]) if good.size else None


def landscapes(
    truth: "Preview | None", previews: Mapping[str, "Preview"], preference: Preference = PLAIN
) -> tuple[tuple[str, ...], dict[str, Landscape]]:
    """The tasks, and what there is to draw by method, the truth first as "joint"; what has no weightings is left out.

    Raises InputError when there is nothing to draw, when tasks differ, or when a preview bears the name of the truth.
    """
    if truth is not None and "joint" in previews:
        raise InputError("'joint' is the name of the truth: hand it over as truth, not among the previews.")
    everything = ({"joint": truth} if truth is not None else {}) | dict(previews)
    everything = {method: preview for method, preview in everything.items() if len(preview)}
    if not everything:
        raise InputError("nothing to draw: neither truth nor previews have weightings. Score some first.")
    first, tasks = next((name, tuple(p.tasks)) for name, p in everything.items())
    for name, preview in everything.items():
        if tuple(preview.tasks) != tasks:
            raise InputError(
                f"preview {name!r} is of the tasks {list(preview.tasks)}, but {first!r} is of {list(tasks)}. "
                "One picture shows one study: pass previews of the same tasks, in the same order."
            )
    if len(tasks) < 2:
        raise InputError(f"a picture of weightings needs at least two tasks. Found {list(tasks)}.")
    return tasks, {
        m: Landscape(
            p.alphas, p.scores, preference.value(p.scores, tasks), p.seconds,
            preference.shortfall(p.scores, tasks) if preference.floors else None,
        )
        for m, p in everything.items()
    }  # fmt: skip


def averaged(unit: str, preference: Preference = PLAIN) -> str:
    """What the numbers of a picture are, for its axis: "mean over tasks (accuracy)"."""
    notes = [unit] * (unit != "score") + ["relative to its own expert"] * bool(preference.relative_to)
    what = valued(preference)
    if unit == "score":
        what = "score of the worst task" if preference.worst else what.replace("mean", "mean score")
    return what + (f" ({', '.join(notes)})" if notes else "")


def valued(preference: Preference = PLAIN) -> str:
    """What a weighting is judged by, in words: "mean over tasks"."""
    uneven = any(weight != 1 for weight in preference.weights.values())
    return "worst task" if preference.worst else f"{'weighted mean' if uneven else 'mean'} over tasks"


def measured_in(unit: str) -> str:
    """What stands behind the word "score" in a caption: " (accuracy)", and nothing where the unit says no more."""
    return "" if unit == "score" else f" ({unit})"


def levels(scores: Array, *, steps: int = 20) -> Array:
    """Round contour levels that cover both ends of the finite scores, so that the best point is never a white hole."""
    from matplotlib.ticker import MaxNLocator

    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high - low <= np.spacing(max(abs(low), abs(high))) * 16:  # flat: one band around it
        margin = max(abs(low), 1.0) / 100
        low, high = low - margin, high + margin
    ticks = np.asarray(MaxNLocator(steps, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high), dtype=float)
    step = ticks[1] - ticks[0]
    while ticks[0] > low:
        ticks = np.concatenate(([ticks[0] - step], ticks))
    while ticks[-1] < high:
        ticks = np.concatenate((ticks, [ticks[-1] + step]))
    return ticks[np.searchsorted(ticks, low, side="right") - 1 : np.searchsorted(ticks, high) + 1]


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of that many inches, without pyplot's global state. Raises MissingExtraError."""
    try:
        import mpltern  # noqa: F401  (registers the ternary projection)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            f"drawing needs matplotlib and mpltern, and {error.name} is not installed. "
            "Install them with: pip install 'previa[plot]'"
        ) from error
    made = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH, facecolor=PAPER)
    FigureCanvasAgg(made)
    return made


def heading(made: Any, study: str, what: str, caption: str) -> None:
    """What this shows, and of which study, above; under the picture, a caption that a stranger can read.

    The study's name stands beside the title where both have room, else it begins the caption.
    """
    width, height = made.get_size_inches()
    title = made.text(
        0.012, 1 - 0.14 / height, what, ha="left", va="top", fontsize=13, fontweight="bold", color=INK
    )
    fit(title, width * 0.976)
    name = made.text(0.988, 1 - 0.17 / height, plain(study, width=60, lines=1), ha="right", va="top", fontsize=9,
                     color=MUTED)  # fmt: skip
    if study and inches_wide(title) + inches_wide(name) > width * 0.976 - 0.3:
        caption = f"{name.get_text()}. {caption}"
        name.remove()
    made.text(0.012, 0.1 / height, "\n".join(_wrapped(caption, width)), ha="left", va="bottom", fontsize=8.5,
              color=MUTED, linespacing=1.35)  # fmt: skip


def _wrapped(caption: str, width: float) -> list[str]:
    """The lines of a caption under a picture of so many inches: letters of 8.5 points, some room left."""
    return textwrap.wrap(caption, int(width * 14.5))


def caption_height(study: str, caption: str, width: float) -> float:
    """Inches that a caption takes at the foot of a picture, the study's name included."""
    return 0.14 + 0.166 * len(_wrapped(f"{study}. {caption}", width))


def fit(text: Any, inches: float) -> None:
    """Make a text of a figure smaller where it is wider than this."""
    if (wide := inches_wide(text)) > inches:
        text.set_fontsize(text.get_fontsize() * inches / wide)


def inches_wide(text: Any) -> float:
    """How wide a text of a figure is drawn."""
    return inches(text)[0]


def inches(thing: Any) -> tuple[float, float]:
    """How wide and how high a text, or a legend, of a figure is drawn."""
    made = thing.get_figure()
    readable(thing)
    with no_font_warnings():
        box = thing.get_window_extent(made.canvas.get_renderer())
    return box.width / made.dpi, box.height / made.dpi


def tidy(axes: Any) -> None:
    """Thin rules instead of a box."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=MUTED, length=3, color=RULE)


def save(made: Any, path: str | Path) -> None:
    """Write the figure whole or not at all: a path that ends in .svg as SVG, else as PNG of at most 256 colours.

    Letters of an SVG are outlines, so that it looks alike everywhere; the same figure gives the same bytes. Raises FileError.
    """
    memory = BytesIO()
    readable(made)
    with no_font_warnings():
        made.canvas.draw()
        if Path(path).suffix.lower() == ".svg":
            from matplotlib import rc_context

            with rc_context({"svg.hashsalt": "previa", "svg.fonttype": "path"}):
                made.savefig(memory, format="svg", facecolor=PAPER, metadata={"Date": None})
        else:
            from PIL import Image

            pixels = Image.fromarray(np.asarray(made.canvas.buffer_rgba())[..., :3].copy())
            few = pixels.quantize(256, dither=Image.Dither.NONE)
            few.save(memory, "PNG", optimize=True)  # a third of the size
    write(path, memory.getvalue())


def write(path: str | Path, content: bytes) -> None:
    """Put a file in its place in one step. Raises FileError naming the path and the reason."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may write to one folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(
            f"{path} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from error
