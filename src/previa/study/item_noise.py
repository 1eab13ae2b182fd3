"""What other test items would change between the best weightings: the width of what is near-best (numpy only)."""

import numpy as np

from previa.study.acquisition import WIDE
from previa.study.preference import Preference
from previa.study.preview import Preview

PLAIN = Preference()


def item_noise(preview: Preview, preference: Preference = PLAIN) -> float | None:
    """By how much values near the best differ on other test items: 1.96 times the median paired deviation; None if unknown.

    Of the best weighting and another a: sd^2 = sum_t w_t^2 var_i(x_ti(best) - x_ti(a)) / N_t, for the worst task the largest of
    its terms; the median over the better half of the others. None without per-item scores of a task that counts.
    """
    good = preview.rows(preview.ok)
    w, tasks = preference.w(preview.tasks), preview.tasks
    parts = [
        None if x is None else preference.seen(np.ones(len(tasks)), tasks)[t] * x
        for t, x in enumerate(good.items)
    ]
    if len(good) < 2 or any(x is None for x, weight in zip(parts, w, strict=True) if weight > 0):
        return None
    value = preference.value(good.scores, tasks)
    order = np.argsort(-value, kind="stable")
    best, others = order[0], order[1 : 1 + max(1, len(good) // 2)]
    terms = np.array(
        [
            (x[others].astype(np.float64) - x[best]).var(axis=1) / x.shape[1]
            for x, weight in zip(parts, w, strict=True)
            if x is not None and weight > 0
        ]
    )
    counted = w[w > 0]
    variance = terms.max(axis=0) if preference.worst else (counted**2) @ terms
    return float(WIDE * np.median(np.sqrt(variance)))
