"""How rows of text are laid out: which column is learnt, which is the prompt, and how stacks call such a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from previa.errors import InputError
from previa.export.plan import Plan

MESSAGES = ("messages", "conversations")
COMPLETIONS = ("completion", "response", "output", "answer", "target")
PROMPTS = ("prompt", "instruction", "question", "input", "query", "source")
ASSISTANT = {"assistant", "gpt", "model", "bot"}


@dataclass(frozen=True)
class Layout:
    """kind: "chat" turns in ``column``, a "pair" of ``prompt`` and ``column``, or free "text" in ``column``."""

    kind: Literal["chat", "pair", "text"]
    column: str
    prompt: str = ""


def layout_of(columns: Sequence[str]) -> Layout | None:
    """The layout of rows with these columns: turns of chat, else a completion with a prompt, else text; None for others."""
    for name in MESSAGES:
        if name in columns:
            return Layout("chat", name)
    prompt = next((name for name in PROMPTS if name in columns), "")
    for name in COMPLETIONS:
        if name in columns and prompt:
            return Layout("pair", name, prompt)
    return Layout("text", "text") if "text" in columns else None


def one_layout(plan: Plan, stack: str) -> Layout:
    """The layout that all tasks of a plan share. Raises InputError naming two that differ, or one that has none."""
    first = None
    for part in plan.parts:
        found = layout_of(part.task.columns)
        if found is None:
            columns = ", ".join(part.task.columns) or "none that are known"
            raise InputError(
                f"task {part.task.name!r}: {stack} has to be told how its rows are laid out, by one of the columns "
                f"{', '.join((*MESSAGES, *COMPLETIONS, 'text'))}. Found {columns}. Rename its columns."
            )
        if first is not None and found != first[1]:
            raise InputError(
                f"task {part.task.name!r} has rows with {_words(found)}, but {first[0]!r} with {_words(first[1])}. {stack} "
                "reads the mixed data in one layout: bring all tasks to one."
            )
        first = first or (part.task.name, found)
    assert first is not None  # weights sum to one
    return first[1]


def supervised(value: Any) -> list[str]:
    """The pieces of text in one row's column that are learnt: the assistant's turns of a chat, or the text itself."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for turn in value if isinstance(turn, dict) for text in _turn(turn)]
    return [] if value is None else [str(value)]


def _turn(turn: dict[str, Any]) -> list[str]:
    role = turn.get("role", turn.get("from"))
    if role not in ASSISTANT:
        return []
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts of several kinds
        return [str(part["text"]) for part in content if isinstance(part, dict) and "text" in part]
    return [] if content is None else [str(content)]


def _words(layout: Layout) -> str:
    return " and ".join(repr(name) for name in (layout.prompt, layout.column) if name)
