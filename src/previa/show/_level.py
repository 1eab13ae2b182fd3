"""What a caption says of the level of previewed scores: measured where there is a truth, and a warning where there is none."""

from collections.abc import Mapping

import numpy as np

from previa.show._look import Landscape
from previa.study.simplex import find

UNKNOWN = "Previews rank weightings; the level of a previewed score need not be right."


def level(lands: Mapping[str, Landscape]) -> str:
    """Previewed minus true scores, over the weightings that both have and at the picks: the range over the previews."""
    previews = [land for method, land in lands.items() if method != "joint" and land.pick is not None]
    if not previews:
        return ""
    found = [] if "joint" not in lands else [_apart(land, lands["joint"]) for land in previews]
    average = [mean for mean, _ in found if mean is not None]
    if not average:
        return UNKNOWN
    picks = [pick for _, pick in found if pick is not None]
    at = f", {_range(picks)} at the pick{'s' * (len(previews) > 1)}" if picks else ""
    return f"Previewed minus true: {_range(average)} on average{at}. Previews rank weightings; they do not predict scores."


def _apart(land: Landscape, truth: Landscape) -> tuple[float | None, float | None]:
    """The mean of the preview minus the truth over shared weightings, and the same at the preview's pick."""
    rows = [find(truth.alphas, alpha) for alpha in land.alphas]
    apart = np.array([np.nan if row is None else truth.mean[row] for row in rows])
    apart = land.mean - apart
    pick = apart[land.pick] if land.pick is not None else np.nan
    mean = None if np.isnan(apart).all() else float(np.nanmean(apart))
    return mean, None if np.isnan(pick) else float(pick)


def _range(values: list[float]) -> str:
    low, high = (_signed(value) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _signed(value: float) -> str:
    """Two digits, and the sign of print."""
    text = f"{value:+#.2g}" if 1e-4 <= abs(value) < 99 else f"{float(f'{value:.2g}'):+g}"
    return text.rstrip(".").replace("-", "−")
