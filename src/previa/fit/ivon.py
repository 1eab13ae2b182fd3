"""IVON: training that ends in a diagonal Gaussian posterior, for about the price of Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, final

import torch
from torch import Generator, Tensor, nn
from torch.optim.optimizer import ParamsT

from previa.core.diagonal import Diagonal
from previa.errors import InputError
from previa.fit import ivon_equations as equations
from previa.fit.blocks import blocks
from previa.fit.ivon_equations import settled
from previa.fit.ivon_options import check_options
from previa.fit.ivon_posterior import named_members, starting_curvature
from previa.fit.ivon_samples import Samples
from previa.fit.noise import Noise

Group = dict[str, Any]


@final
class IVON(torch.optim.Optimizer):
    """Variational online Newton with a diagonal precision: trains N(m, 1/(ess*(h+delta))) (Shen et al. 2024, alg. 1).

        with optimizer.sampled():                    # theta = m + sigma*eps, sigma = 1/sqrt(ess*(h+delta))
            loss(model(x), y).backward()             # g_hat = grad l(theta), l a MEAN loss; m is back on leaving
        optimizer.step()
            h_hat = ess*(h+delta) * mean[g_hat*(theta-m)]
            g <- b1*g + (1-b1)*mean[g_hat]
            h <- b2*h + (1-b2)*h_hat + (1-b2)^2 * (h-h_hat)^2 / (2*(h+delta))
            m <- m - lr * clip((g/(1-b1^t) + delta*m)/(h+delta), +-xi)       lr times (hess_init+delta) if rescale_lr

    The parameters hold m outside the context. ``mean[]`` is over the samples, one for each context closed since the
    last step. Backward calls inside one context share its sample and add up as in any loop: divide each microbatch's
    loss by their number. A context without a backward call is a draw from the posterior and counts for nothing.
    Clip gradients inside the context, or before ``step`` when the step has a single sample.

    h is the curvature of the mean loss. h alone can be negative, but h+delta is positive always: it never falls below
    half of itself in a step (see ivon_equations.update).

    ``ess`` is the effective sample size, ``hess_init`` the first h, ``weight_decay`` delta, ``clip_radius`` xi; each can
    be set for a group of parameters, and changed by a scheduler. State is float32 for parameters of half precision.
    Noise comes from the optimizer's own streams, seeded once from ``generator`` (torch's global one by default):
    under data parallelism, where gradients are averaged between processes, all must start from the same seed.
    Raises InputError for a value out of its range, or a parameter that is not floating-point.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        ess: float,
        hess_init: float,
        betas: tuple[float, float] = (0.9, 0.99999),
        weight_decay: float = 0.0,
        clip_radius: float = math.inf,
        rescale_lr: bool = True,
        generator: Generator | None = None,
    ) -> None:
        options = {"lr": lr, "ess": ess, "hess_init": hess_init, "betas": betas, "weight_decay": weight_decay}
        self._noise = Noise(generator)
        self._samples = Samples()
        super().__init__(params, {**options, "clip_radius": clip_radius, "rescale_lr": rescale_lr})

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with options of their own. Raises InputError as the constructor does."""
        check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if not p.is_floating_point():
                raise InputError(
                    f"IVON: a parameter of shape {tuple(p.shape)} is {p.dtype}, not floating-point."
                )

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """A context in which the parameters that require a gradient hold theta = m + eps/sqrt(ess*(h+delta)).

        Empties their ``.grad`` on entry, takes it as one sample of g_hat on leaving, and puts m back, every bit of it,
        also when an exception leaves (then the sample and its gradients are dropped). Raises InputError when a context
        is open already, or when gradients of an earlier sample were changed after its context closed.
        """
        self._samples.require_closed("sampled()")
        self._samples.bank()
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        undo: list[Callable[[], None]] = []
        complete = False
        self._samples.open = True
        try:
            for p in params:
                p.grad = None
            for group, _, members in self._alike(params):
                for theta, m, H, hold in blocks(self._sampling_row(p) for p in members):
                    equations.keep(theta, hold, m)
                    undo.append(partial(equations.restore, theta, hold, m))
                    equations.perturb(theta, hold, m, H, ess=group["ess"], noise=self._noise)
            yield
            complete = True
        finally:
            for restore in undo:
                restore()
            self._samples.open = False
            for p in params if not complete else ():
                p.grad = None
        self._samples.take(params)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update m and h from the samples since the last step; parameters that got no gradient stay as they are.

        ``closure`` computes a loss and calls backward; it is evaluated at one more sample, and its value returned.
        Raises InputError when no gradients were taken at a sample, or a context is still open.
        """
        loss = None
        if closure is not None:
            with self.sampled(), torch.enable_grad():
                loss = closure()
        self._samples.require_closed("step()")
        means, multiplied = self._samples.means()
        for group, steps, members in self._alike(means):
            delta = group["weight_decay"]
            scale = group["hess_init"] + delta if group["rescale_lr"] else 1.0
            for theta, m, H, g, g_hat, product in blocks((*self._row(p), *means[p]) for p in members):
                equations.update(
                    *(theta, m, H, g, g_hat, product),
                    multiplied=multiplied,
                    lr=group["lr"] * scale,
                    betas=group["betas"],
                    ess=group["ess"],
                    delta=delta,
                    xi=group["clip_radius"],
                    t=steps + 1,
                )
            for p in members:
                self.state[p]["step"] = steps + 1
        self._samples.clear()
        return loss

    @property
    def memory(self) -> float:
        """beta2^steps, the weight of the initial h in h (mean over parameters): near 1, h still is what it was set to.

        1000 steps at beta2 = 0.99999 leave 0.99 of ``hess_init``: then all tasks have equal precisions, and merging
        them is simple averaging. Use a smaller beta2, or start from a trained posterior (whose h is then the initial).
        """
        pairs = [
            (p, group["betas"][1]) for group in self.param_groups for p in group["params"] if p.requires_grad
        ]
        weights = [p.numel() * beta2 ** self.state.get(p, {"step": 0})["step"] for p, beta2 in pairs]
        return float(sum(weights) / max(1, sum(p.numel() for p, _ in pairs)))

    def posterior(self, model: nn.Module) -> Diagonal:
        """N(m, 1/(ess*(h+delta))) over the parameters of ``model`` that are not frozen, under their names there.

        Raises InputError unless the trainable parameters of ``model`` and of this optimizer are the same ones.
        """
        self._samples.require_closed("posterior()")
        named = named_members(self, model, "posterior()")
        rows = {name: (self._state(p, group), p.detach(), group["ess"]) for name, (p, group) in named.items()}
        return Diagonal(
            mean={name: settled(p, s["m"]) if "m" in s else p for name, (s, p, _) in rows.items()},
            precision={name: ess * s["H"] for name, (s, _, ess) in rows.items()},
        )

    def load_posterior(self, model: nn.Module, posterior: Diagonal, *, ess: float | None = None) -> None:
        """Start anew from a trained posterior: m = its mean, h+delta = its precision/ess (paper, B.3).

        ``ess`` is that of the run that made it, by default this optimizer's own: what is copied is the curvature of a
        mean loss, whatever this run's ess. Momentum and step counts start at zero; the learning rate's scale stays
        hess_init+delta. Raises InputError as ``posterior``, ParamsError where names or shapes differ.
        """
        self._samples.require_none("load_posterior()")
        named = named_members(self, model, "load_posterior()")
        curvature = starting_curvature(posterior, named, ess)
        for name, (p, group) in named.items():
            self.state.pop(p, None)
            with torch.no_grad():
                p.copy_(posterior.mean[name])
                state = self._state(p, group)
                state["H"].copy_(curvature[name])
                state.get("m", p).copy_(posterior.mean[name])

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: torch's layout, with step counts, and an entry "noise".

        Raises InputError inside a sampling context and between it and its step.
        """
        self._samples.require_none("state_dict()")
        return {**super().state_dict(), "noise": self._noise.__getstate__()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken; nothing is shared with it. Raises InputError if not an IVON's."""
        self._samples.require_closed("load_state_dict()")
        if "noise" not in state_dict:
            raise InputError(
                "load_state_dict(): no entry 'noise', so this is not the state of a previa.IVON."
            )
        super().load_state_dict(state_dict)
        self._noise.__setstate__(state_dict["noise"])
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, params, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                if isinstance(
                    value, Tensor
                ):  # torch has cast it to the dtype of p: take it from the source again
                    self.state[p][key] = value.to(p.device, _wide(p), copy=True)

    def __getstate__(self) -> dict[str, Any]:
        self._samples.require_none("a copy of the optimizer")
        return {**super().__getstate__(), "_noise": self._noise}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._samples = Samples()

    def _state(self, p: Tensor, group: Group) -> dict[str, Any]:
        """step, g, H = h+delta, and m in half precision: all in float32 at least."""
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = 0
            state["g"] = torch.zeros_like(p, dtype=_wide(p), requires_grad=False)
            state["H"] = torch.full_like(state["g"], group["hess_init"] + group["weight_decay"])
            if p.dtype != _wide(p):
                state["m"] = p.detach().to(_wide(p))
        return state

    def _row(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """p, m (p itself in full precision), H, g."""
        state = self.state[p]
        return p.detach(), state.get("m", p.detach()), state["H"], state["g"]

    def _sampling_row(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """p, m, H, and the buffer that keeps m."""
        return (*self._row(p)[:3], self._samples.hold(p, _wide(p)))

    def _alike(self, params: Iterable[Tensor]) -> list[tuple[Group, int, list[Tensor]]]:
        """(group, steps done, parameters) of those whose equations have the same constants."""
        chosen = set(params)
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for index, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p in chosen:
                    steps = self._state(p, group)["step"]
                    alike.setdefault((index, steps, p.dtype, p.device), []).append(p)
        return [(self.param_groups[index], steps, members) for (index, steps, *_), members in alike.items()]


def _wide(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)
