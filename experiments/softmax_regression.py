"""Softmax regression with closed derivatives: a task's loss for variational fits, and many weighted joint losses solved at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Derivatives = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
HISTORY = 12  # pairs that L-BFGS keeps
NUMBERS = 1 << 23  # of [examples, weightings, classes] at a time: 64 MB in float64
SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)


@dataclass(frozen=True)
class Examples:
    """Features X [N, D] float64, the last of them constant, and labels y [N] out of ``classes``."""

    X: Tensor
    y: Tensor
    classes: int

    @property
    def size(self) -> int:
        """Parameters: [classes, D], a row a class."""
        return self.classes * self.X.shape[1]

    @property
    def indicators(self) -> Tensor:
        """Labels as indicators [N, C]."""
        return one_hot(self.y, self.classes).double()

    def of(self, labels: Sequence[int]) -> "Examples":
        """Those with these labels; the model keeps all classes."""
        kept = torch.isin(self.y, torch.tensor(labels, device=self.y.device))
        return Examples(self.X[kept], self.y[kept], self.classes)


def derivatives(task: Examples, *, ess: float, prior: float) -> Derivatives:
    """l = ess * (mean cross entropy + prior/2 |theta|^2), its gradient and Hessian at theta [S, P].

    Hess l = ess/N sum_i (diag p_i - p_i p_i') (x) x_i x_i' + ess * prior * I: C(C+1)/2 products [D, N] x [N, D].
    """
    N, D = task.X.shape
    C, Y = task.classes, task.indicators

    def at(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        W = theta.view(-1, C, D)
        log_p = torch.log_softmax(torch.einsum("nd,scd->snc", task.X, W), -1)
        p = log_p.exp()
        loss = -ess / N * (log_p * Y).sum((1, 2)) + 0.5 * ess * prior * theta.square().sum(-1)
        g = ess / N * torch.einsum("snc,nd->scd", p - Y, task.X).flatten(1) + ess * prior * theta
        H = theta.new_empty(len(theta), C, D, C, D)
        for s in range(len(theta)):
            for i in range(C):
                for j in range(i + 1):
                    w = p[s, :, i] * (float(i == j) - p[s, :, j]) * (ess / N)
                    H[s, i, :, j] = task.X.mT @ (w[:, None] * task.X)
                    H[s, j, :, i] = H[s, i, :, j].mT
        H = H.view(len(theta), C * D, C * D)
        H.diagonal(dim1=-2, dim2=-1).add_(ess * prior)
        return loss, g, H

    return at


def squared_gradients(task: Examples, theta: Tensor, prior: float) -> Tensor:
    """mean_i (d loss_i / d theta)^2 with the given labels, and the prior: [P]. The gradient is (p - y) (x) x, so squares factorise."""
    p = torch.softmax(task.X @ theta.view(task.classes, -1).mT, -1)
    return ((p - task.indicators).square().mT @ task.X.square() / len(task.X)).flatten() + prior


def gradient_descent(task: Examples, *, lr: float, steps: int, prior: float) -> Tensor:
    """theta [P] after ``steps`` steps from zero on mean cross entropy + prior/2 |theta|^2."""
    W, Y = task.X.new_zeros(task.classes, task.X.shape[1]), task.indicators
    for _ in range(steps):
        residual = torch.softmax(task.X @ W.mT, -1) - Y
        W = W - lr * (residual.mT @ task.X / len(task.X) + prior * W)
    return W.flatten()


def newton(at: Derivatives, theta: Tensor, steps: int = 100) -> tuple[Tensor, Tensor]:
    """(theta [P], Hess l there [P, P]) where l is least, from ``theta``: damped Newton to a decrement of 1e-12 of l."""
    loss, g, H = (part[0] for part in at(theta[None]))
    for _ in range(steps):
        d = torch.cholesky_solve(g[:, None], torch.linalg.cholesky(H))[:, 0]
        if g @ d <= 1e-12 * loss:
            return theta, H
        step = 1.0
        while True:
            next_loss, next_g, next_H = (part[0] for part in at((theta - step * d)[None]))
            if next_loss <= loss - SUFFICIENT * step * (g @ d) or step < 1e-6:
                break
            step /= 2
        theta, loss, g, H = theta - step * d, next_loss, next_g, next_H
    raise RuntimeError(f"newton: not converged in {steps} steps; the decrement is {float(g @ d):g}.")


def joint(
    tasks: Sequence[Examples], alphas: Tensor, *, prior: float, tolerance: float, most: int = 2000
) -> tuple[Tensor, Tensor, Tensor]:
    """argmin_theta sum_t alpha_t (mean cross entropy of task t) + prior/2 |theta|^2 for every row of alphas [A, T].

    One L-BFGS a row, all in the same matrix products. Returns theta [A, P], max |gradient| [A] and the number of iterations [A].
    Raises RuntimeError where a gradient stays above ``tolerance``.
    """
    X, y = torch.cat([t.X for t in tasks]), torch.cat([t.y for t in tasks])
    C, D = tasks[0].classes, X.shape[1]
    label, minus = y[:, None, None], -X.new_ones(1, 1, 1).expand(len(X), len(alphas), 1)
    shares = torch.cat([a[:, None].expand(-1, len(t.X)) / len(t.X) for a, t in zip(alphas.T, tasks, strict=True)], 1).T  # fmt: skip

    def at(theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax((X @ theta.view(-1, D).mT).view(len(X), -1, C), -1)
        of_label = log_p.gather(-1, label.expand(-1, len(theta), -1))[..., 0]
        weight = shares[:, rows]
        loss = -(weight * of_label).sum(0) + 0.5 * prior * theta.square().sum(-1)
        residual = log_p.exp_()
        residual.scatter_add_(-1, label.expand(-1, len(theta), -1), minus[:, : len(theta)])
        residual *= weight[..., None]
        g = (residual.view(len(X), -1).mT @ X).view(len(theta), -1) + prior * theta
        return loss, g

    return _lbfgs(at, X.new_zeros(len(alphas), C * D), tolerance, most)


def rows_at_a_time(tasks: Sequence[Examples]) -> int:
    """How many weightings ``joint`` should be given at once."""
    return max(1, NUMBERS // (sum(len(t.X) for t in tasks) * tasks[0].classes))


def correct(test: Examples, theta: Tensor) -> Tensor:
    """1 where the largest of all classes is the label, [A, N] for theta [A, P]."""
    logits = (test.X @ theta.view(-1, test.X.shape[1]).mT).view(len(test.X), -1, test.classes)
    return (logits.argmax(-1) == test.y[:, None]).mT


def _lbfgs(
    at: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], theta: Tensor, tolerance: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The minima of at(theta [a, P], rows [a]) -> (loss [a], gradient [a, P]); rows that have arrived drop out."""
    rows = torch.arange(len(theta), device=theta.device)
    found, iterations, sizes = theta.clone(), torch.zeros_like(theta[:, 0]), torch.zeros_like(theta[:, 0])
    loss, g = at(theta, rows)
    pairs: list[
        tuple[Tensor, Tensor, Tensor]
    ] = []  # s, y [a, P], 1 / s.y [a, 1]: 0 where s.y is not positive
    for iteration in range(most):
        size = g.abs().amax(-1)
        going = size > tolerance
        if not bool(going.all()):
            done = rows[~going]
            found[done], sizes[done], iterations[done] = theta[~going], size[~going], float(iteration)
            rows, theta, loss, g = rows[going], theta[going], loss[going], g[going]
            pairs = [(s[going], y[going], rho[going]) for s, y, rho in pairs]
        if not len(rows):
            return found, sizes, iterations
        d, sums = g.clone(), []
        for s, y, rho in reversed(pairs):
            sums.append(rho * (s * d).sum(-1, keepdim=True))
            d -= sums[-1] * y
        if pairs:
            s, y, rho = pairs[-1]
            d *= torch.where(rho > 0, 1 / (rho * y.square().sum(-1, keepdim=True)), 1.0)
        for (s, y, rho), a in zip(pairs, reversed(sums), strict=True):
            d += (a - rho * (y * d).sum(-1, keepdim=True)) * s
        slope, step = (g * d).sum(-1), torch.ones_like(loss)
        while True:
            new = theta - step[:, None] * d
            new_loss, new_g = at(new, rows)
            short = new_loss > loss - SUFFICIENT * step * slope + 1e-14 * loss.abs()
            if not bool(short.any()) or float(step.min()) < 1e-8:
                break
            step[short] /= 2
        sy = ((new - theta) * (new_g - g)).sum(-1, keepdim=True)
        rho = torch.where(sy > 0, 1 / sy, 0.0)
        pairs = [*pairs[-HISTORY + 1 :], (new - theta, new_g - g, rho)]
        theta, loss, g = new, new_loss, new_g
    raise RuntimeError(
        f"joint: after {most} iterations a gradient is {float(size.max()):g}, above {tolerance:g}."
    )
