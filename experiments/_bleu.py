"""BLEU of a whole test set, as one number a sentence: what the noise floor and the error bars are made of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bleu_items(
    found: Sequence[str], references: Sequence[str], *, lowercase: bool = False
) -> NDArray[np.float64]:
    """Jackknife pseudo-values of corpus BLEU, [N], in points: their mean is BLEU, their spread that of its mean.

        p_i = B + (N - 1) * (mean_j B_(-j) - B_(-i)),   B_(-i) the BLEU without sentence i

    BLEU is no mean over sentences, but a function of sums over them (n-gram matches, lengths): p_i is the share of
    sentence i in that function, to first order. Raises ValueError where the numbers of sentences differ or are below 2.
    """
    from sacrebleu.metrics import BLEU

    if len(found) != len(references) or len(found) < 2:
        raise ValueError(
            f"BLEU: {len(found)} translations for {len(references)} references; expected as many, 2 or more."
        )
    metric = BLEU(lowercase=lowercase, effective_order=True)  # by sentence: only their counts are used
    each = [metric.sentence_score(f, [r]) for f, r in zip(found, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in each])

    def bleu(sums: NDArray[np.int64]) -> float:
        *grams, sys_len, ref_len = sums.tolist()
        n = len(grams) // 2
        return float(BLEU.compute_bleu(grams[:n], grams[n:], sys_len, ref_len).score)

    total, N = counts.sum(0), len(found)
    without = np.array([bleu(total - own) for own in counts])
    return bleu(total) + (N - 1) * (without.mean() - without)
