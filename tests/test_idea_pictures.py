"""What docs/beyond.md says of its pictures: the numbers are those that the script computes."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from previa import anchored, warped
from previa.study import quality
from previa.study.simplex import grid

pytest.importorskip("sklearn", reason="the idea's pictures were NOT checked: scikit-learn is not installed")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))
from idea_pictures import MIDDLES, Bench, edge  # noqa: E402


@pytest.fixture(scope="module")
def bench():
    return Bench(0)


def test_the_truth_saturates_and_averaging_does_not(bench):
    at = edge(11)[[9, 8, 6]]  # a tenth, a fifth and two fifths of the weight on task 0-3
    true = bench.scores(bench.joint(at))[:, 0]
    averaged = bench.scores(bench.simple(at).params.vector)[:, 0]
    assert true.round(2).tolist() == [0.64, 0.9, 0.97]
    assert averaged.round(2).tolist() == [0.0, 0.0, 0.14]  # one in seven, at last


def test_anchored_previews_go_through_the_joint_runs_and_have_the_least_error(bench):
    middles = torch.tensor(MIDDLES, dtype=torch.float64)
    of = partial(anchored, bench.simple, bench.runs)
    found, runs = of(p=0.3)(middles).params.vector, torch.stack([run.params.vector for run in bench.runs])
    assert torch.equal(found, runs)
    at = torch.from_numpy(grid(3, 5))
    truth = bench.scores(bench.joint(at)).mean(1)
    errors, ranks = [], []
    for method in (bench.simple, warped(bench.simple, 0.5), of(p=0.25)):
        mean = bench.scores(method(at).params.vector).mean(1)
        errors.append(((mean - truth) ** 2).mean())
        ranks.append(quality.spearman(mean, truth))
    assert errors[0] > errors[1] > 20 * errors[2]
    assert ranks[0] < ranks[1] < ranks[2]
    assert ranks[2] > 0.95


def test_the_joint_loss_is_least_where_p_is_chosen(bench):
    losses = [bench.joint_loss(warped(bench.simple, p)) for p in (1.0, 0.5, 0.12)]
    assert np.argmin(losses) == 1


def test_one_look_with_full_hessians_is_near_the_truth_on_this_convex_loss(bench):
    at = torch.from_numpy(grid(3, 4))
    truth, seen = bench.scores(bench.joint(at)).mean(1), bench.scores(bench.centre(at)).mean(1)
    plain = bench.scores(bench.simple(at).params.vector).mean(1)
    assert ((seen - truth) ** 2).mean() < 0.05 * ((plain - truth) ** 2).mean()
