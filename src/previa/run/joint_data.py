"""A weighted mixture of tokenised data sets: which rows of which task each step takes, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, final

from numpy.typing import ArrayLike
from torch import Tensor

from previa.errors import InputError
from previa.run.draws import Draws, Source, generator
from previa.run.recipe import Recipe, Shares
from previa.run.records import digest_of_data
from previa.study.simplex import check_alphas

Tokens = Callable[[Any], int]
"""The number of supervised tokens of a row."""


class Row(NamedTuple):
    """One example of a step: its task and its number there, and what its loss is multiplied by."""

    task: str
    number: int
    weight: float


@final
class Mixture:
    """The examples of a weighted finetuning, all drawn before it starts, from the seed and the tasks' names alone.

        objective   sum_t alpha_t l_t / S,   l_t = mean_i loss_i or sum_i loss_i of task t's N_t rows ("convention")
        a step      sum_i w_i loss_i over its rows, whose expectation is the objective

    data: task -> tokenised rows, anything with len() and [index]. alpha [T], in the order of data.
    recipe.sampling "loss": a step takes batch_size rows of every task with alpha_t > 0, and w_i = q_t/batch_size;
    "sample": it takes batch_size in all, each one's task drawn with probability q_t, and w_i = 1/batch_size. Rows come in whole
    shuffled passes over each task. q_t = alpha_t for mean losses (S = 1), alpha_t N_t/S for sums (S = sum_t alpha_t N_t).
    tokens: with it every supervised token counts alike, not every row. A row's loss is then the mean over its n_i tokens, l_t
    the mean or the sum over all tokens of the task, L_t a row on average: w_i is multiplied by n_i/L_t, and N_t by L_t.
    Raises AlphaError; InputError naming the task for data of no known form, or without a supervised token.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        alpha: ArrayLike | Tensor,
        recipe: Recipe,
        *,
        seed: int = 0,
        tokens: Tokens | None = None,
    ) -> None:
        self.recipe, self.seed = recipe, seed
        self._sources = {
            task: Source(task, _Listed(rows) if isinstance(rows, list) else rows)
            for task, rows in data.items()
        }
        for task, source in self._sources.items():
            if source.tree:
                raise InputError(
                    f"task {task!r}: its data is {type(data[task]).__name__}; expected tokenised rows, as a list of dicts or a "
                    "datasets.Dataset."
                )
        alpha = alpha.tolist() if isinstance(alpha, Tensor) else alpha
        self.alpha: tuple[float, ...] = tuple(
            check_alphas(alpha, len(self._sources), where="mixture").tolist()
        )
        self._tokens = tokens
        totals = self.sizes if tokens is None else self._totals(tokens)
        self.per_row = {task: totals[task] / self.sizes[task] for task in self._sources}
        """L_t, supervised tokens a row; 1 where rows count alike"""
        shares = recipe.shares(self.alpha, list(totals.values()))
        self.shares: Shares = shares
        """q_t, the weight of a row, and the ess that fits them"""
        counts = recipe.counts(shares, generator(seed, "tasks"))
        self._draws = Draws(self._sources, counts, seed)
        self._weight = dict(zip(self._sources, shares.example, strict=True))
        self.taken: dict[str, int] = dict(zip(self._sources, counts.sum(0).tolist(), strict=True))
        """rows that the whole run takes of each task, repeats counted"""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names, in the order of alpha."""
        return tuple(self._sources)

    @property
    def sizes(self) -> dict[str, int]:
        """N_t, rows of each task."""
        return {task: len(source) for task, source in self._sources.items()}

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over each task that the whole run makes."""
        return {task: taken / self.sizes[task] for task, taken in self.taken.items()}

    @property
    def examples(self) -> int:
        """What a posterior's scale is known by: the rows, or where tokens count alike the tokens, of the tasks that take part."""
        each = zip(self.sizes.values(), self.per_row.values(), self.alpha, strict=True)
        return round(sum(size * L for size, L, a in each if a > 0))

    def rows(self, step: int) -> list[Row]:
        """The examples of a step, task by task."""
        return [
            Row(task, number, self._weight[task] * self._relative(task, number))
            for task, numbers in self._draws.step(step)
            for number in numbers.tolist()
        ]

    def features(self, row: Row) -> Any:
        """The tokenised example itself."""
        return self._sources[row.task].data[row.number]

    def facts(self) -> dict[str, Any]:
        """All that the order and the weights of the rows rest on, as JSON data: what tells a run from another."""
        return {
            "tasks": list(self.tasks),
            "alpha": list(self.alpha),
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "data": {task: digest_of_data(task, source.data) for task, source in self._sources.items()},
            "tokens_per_row": None if self._tokens is None else self.per_row,
        }

    def _relative(self, task: str, number: int) -> float:
        if self._tokens is None:
            return 1.0
        return self._tokens(self._sources[task].data[number]) / self.per_row[task]

    def _totals(self, tokens: Tokens) -> dict[str, int]:
        """The supervised tokens of each task, N_t L_t."""
        found = {}
        for task, source in self._sources.items():
            found[task] = sum(tokens(source.data[i]) for i in range(len(source)))
            if not found[task]:
                raise InputError(f"task {task!r}: none of its {len(source)} rows has a supervised token.")
        return found


@final
class TrainerRows(Sequence[Any]):
    """The same mixture as a data set for a trainer that knows nothing of tasks, such as transformers.Trainer.

    Rows are drawn with the shares q_t whose average over a batch has the gradient of sum_t alpha_t l_t. averages_tokens: the
    trainer averages over all tokens of a batch, as the Trainer does for language models. Long rows then pull harder, and the
    shares make up for it: q_t ~ alpha_t/L_t for mean losses, alpha_t N_t for sums (METHOD 8). ``tokens`` counts them.
    Its length is steps*batch_size; any order will do. Raises as Mixture; InputError for recipe.sampling "loss".
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        alpha: ArrayLike | Tensor,
        recipe: Recipe,
        *,
        seed: int = 0,
        averages_tokens: Tokens | None = None,
    ) -> None:
        if recipe.sampling != "sample":
            raise InputError(
                "TrainerRows: a trainer averages the rows that it is given and cannot weigh them. Set sampling='sample'."
            )
        mixture = Mixture(data, alpha, recipe, seed=seed)
        if averages_tokens is not None and recipe.convention == "mean":
            once = replace(recipe, steps=1, snapshots=())
            L = Mixture(data, alpha, once, seed=seed, tokens=averages_tokens).per_row
            shares = [a / L[task] for task, a in zip(mixture.tasks, mixture.alpha, strict=True)]
            mixture = Mixture(data, [share / sum(shares) for share in shares], recipe, seed=seed)
        self.mixture = mixture
        self._order = [row for step in range(recipe.steps) for row in mixture.rows(step)]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        return self.mixture.features(self._order[index])

    def __iter__(self) -> Iterator[Any]:
        return (self.mixture.features(row) for row in self._order)


def token_counter(shifted: bool) -> Tokens:
    """Counts the labels of a row that are not -100; ``shifted``: those of a causal language model, whose first predicts nothing."""

    def tokens(row: Any) -> int:
        labels = row["labels"]
        return sum(int(label) != -100 for label in (labels[1:] if shifted else labels))

    return tokens


class _Listed:
    """Rows in a list, of any lengths: they are padded later, when they are collated."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]
