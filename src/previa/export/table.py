"""A plan as a table for a person: rows, tokens, shares and epochs of each task, and the rule that they follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from previa.export.plan import Part, Plan

RULE = {
    ("mean", "rows"): "q_t = alpha_t",
    ("sum", "rows"): "q_t ~ alpha_t N_t",
    ("mean", "tokens"): "q_t ~ alpha_t / L_t",
    ("sum", "tokens"): "q_t ~ alpha_t N_t",
}


def table(plan: Plan, number: str = "", numbers: Mapping[str, float | int | str] | None = None) -> str:
    """One line a task and one of sums; ``number`` and ``numbers`` are a stack's own, in the last column."""
    head = ["task", "alpha", "rows", "tokens/row", "of rows", "of tokens", "rows drawn", "epochs"]
    body = [_line(part) for part in plan.all_parts]
    drawn = plan.tokens_drawn
    total = [
        "all",
        f"{sum(plan.alpha):.3g}",
        f"{sum(t.rows for t in plan.tasks):,}",
        "",
        "",
        "",
        f"{plan.draw:,}",
        "",
    ]
    if numbers is not None:
        head.append(number)
        for line, task in zip(body, plan.tasks, strict=True):
            line.append(_short(numbers[task.name]) if task.name in numbers else "-")
        total.append("")
    tokens = "" if drawn is None else f" {drawn:,} tokens in all."
    rule = (
        f"alpha weighs {plan.convention} losses; the trainer averages over {plan.average}: shares of rows "
        f"{RULE[plan.convention, plan.average]}.{tokens}"
    )
    return "\n".join([*_aligned([head, *body, total]), "", rule])


def counted(how: Mapping[str, str]) -> str:
    """How the tokens of which tasks were counted, in a sentence."""
    ways: dict[str, list[str]] = {}
    for name, way in how.items():
        ways.setdefault(way, []).append(name)
    said = "; ".join(f"{', '.join(names)}: {way}" for way, names in ways.items())
    by_words = any(way.startswith("words") for way in ways)
    return f"Tokens of {said}." + (
        " Words stand in for tokens: --tokenizer counts a model's own." if by_words else ""
    )


def _line(part: Part) -> list[str]:
    task = part.task
    return [
        task.name,
        f"{task.alpha:.3g}",
        f"{task.rows:,}",
        "-" if task.tokens is None else f"{task.tokens:.4g}",
        f"{100 * part.share:.1f} %",
        "-" if part.token_share is None else f"{100 * part.token_share:.1f} %",
        f"{part.count:,}",
        f"{part.epochs:.2f}" if part.count else "-",
    ]


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
