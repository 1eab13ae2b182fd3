"""choose_power finds the power and the method whose merges have the least joint loss, and nothing that is not finite."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from previa.core.anchored import anchored
from previa.core.isotropic import Isotropic
from previa.core.modes import Modes, modes
from previa.core.params import Flat
from previa.core.runs import Run
from previa.core.warp import warped
from previa.errors import AlphaError, InputError
from previa.run.powers import POWERS, choose_power
from previa.study.simplex import probes

TASKS = ("left", "right")
ALPHAS = probes(2)


class Point(nn.Module):
    """One parameter x: its tasks' own optima are 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(1))


def losses(p):
    """|x|^q and |1 - x|^q with q = 1 + 1/p: alpha_1 x^(1/p) = alpha_2 (1 - x)^(1/p) where x = w_2 for w ~ alpha^p exactly."""
    q = 1 + 1 / p

    def score(model):
        x = model.x.detach().double()
        return {"left": float(x.abs() ** q), "right": float((1 - x).abs() ** q)}

    return score


def simple(at=(0.0, 1.0)):
    return partial(modes, posteriors=[Isotropic({"x": torch.tensor([theta])}) for theta in at])


def chosen(score, methods=None, **more):
    return choose_power(
        Point(), methods or {"simple": partial(warped, simple())}, score, ALPHAS, tasks=TASKS, **more
    )


@pytest.mark.parametrize("p", POWERS)
def test_where_the_truth_is_a_warped_path_its_power_is_found(p):
    found = chosen(losses(p))
    assert (found.method, found.p) == ("simple", p)
    assert found.powers == {"simple": p}
    assert list(found.losses["simple"]) == list(POWERS)
    assert found.evaluations == len(POWERS) * len(ALPHAS)


def test_the_losses_are_means_over_weightings_of_the_joint_loss():
    found = chosen(losses(1.0), powers=[1.0])
    # x = alpha_2: alpha_1 alpha_2^2 + alpha_2 alpha_1^2 = alpha_1 alpha_2, .09, .16 and .24 at (.9, .1), (.8, .2), (.6, .4)
    assert found.losses["simple"][1.0] == pytest.approx((0.09 + 0.16 + 0.24) / 3, rel=1e-6)


def test_the_best_method_is_chosen_at_its_own_power_and_the_others_are_told():
    methods = {"off": partial(warped, simple((0.3, 0.6))), "simple": partial(warped, simple())}
    found = chosen(losses(0.5), methods)
    assert (found.method, found.p) == ("simple", 0.5)
    assert set(found.powers) == {"off", "simple"}
    assert min(found.losses["off"].values()) > found.losses["simple"][0.5]


def test_anchored_methods_are_methods_too():
    """An anchor on the true path at (.8, .2), where the tasks' own runs alone leave the path: it lowers the joint loss at p = 1."""
    w = 0.2**0.5 / (0.2**0.5 + 0.8**0.5)
    anchors = [Run((0.8, 0.2), {"x": torch.tensor([w])}), Run((0.2, 0.8), {"x": torch.tensor([1 - w])})]
    methods = {
        "simple": lambda p: warped(simple(), p),
        "anchored": lambda p: anchored(simple(), anchors, p=p),
    }
    found = chosen(losses(0.5), methods, powers=[1.0])
    assert found.method == "anchored"


def test_the_first_of_equals_wins():
    same = {"one": partial(warped, simple()), "two": partial(warped, simple())}
    assert chosen(losses(0.5), same).method == "one"
    flat = lambda model: dict.fromkeys(TASKS, 1.0)  # noqa: E731
    assert chosen(flat).p == 1.0
    assert chosen(flat, powers=[0.3, 1.0]).p == 0.3


@pytest.mark.parametrize("where", ["everywhere", "at one weighting", "an infinite one"])
def test_a_loss_that_is_not_finite_is_never_chosen(where):
    """The lower a loss, the better; but NaN and infinity are no losses, at however many weightings."""

    def broken(p):
        def method(alphas):
            found = warped(simple(), p)(alphas)
            if p == 0.5:  # the best one
                rows = slice(None) if where == "everywhere" else slice(0, 1)
                found.params.vector[rows] = torch.inf if where == "an infinite one" else torch.nan
            return found

        return method

    found = chosen(losses(0.5), {"broken": broken})
    assert found.p != 0.5
    assert not np.isfinite(found.losses["broken"][0.5])
    assert np.isfinite(found.losses["broken"][found.p])


def test_where_no_loss_is_finite_the_reason_is_said():
    def diverged(p):
        layout = simple()([[0.5, 0.5]]).params.layout
        return lambda alphas: Modes(Flat(layout, torch.full((len(alphas), 1), torch.nan)), {})

    with pytest.raises(
        InputError, match=r"no joint loss is finite .*of diverged at p = 1, 0\.5.*First failure: .*NaN"
    ):
        chosen(losses(0.5), {"diverged": diverged}, powers=[1.0, 0.5])

    def scored(model):
        raise RuntimeError("no such file")

    with pytest.raises(InputError, match="no such file"):
        chosen(scored)


def test_nothing_to_choose_from_and_powers_that_are_none_are_refused():
    with pytest.raises(InputError, match="at least one method and one power"):
        choose_power(Point(), {}, losses(1.0), ALPHAS, tasks=TASKS)
    with pytest.raises(InputError, match="at least one method and one power"):
        chosen(losses(1.0), powers=[])
    with pytest.raises(InputError, match="the power p is 0"):
        chosen(losses(1.0), powers=[1.0, 0])
    with pytest.raises(AlphaError, match="choose_power"):
        choose_power(Point(), {"simple": partial(warped, simple())}, losses(1.0), [[0.5, 0.2]], tasks=TASKS)


def test_progress_names_method_and_power():
    said = []
    chosen(
        losses(1.0), powers=[1.0, 0.5], progress=lambda what, done, total: said.append((what, done, total))
    )
    assert ("joint loss, simple, p = 0.5", len(ALPHAS), len(ALPHAS)) in said
