"""The lookup inside an embedding of another kind, as Gemma's, which scales what it looks up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Keep = Callable[[Tensor, Tensor], Tensor]
"""(tokens, rows looked up) -> the rows to go on with."""


class _Lookups(TorchFunctionMode):
    """Hands each functional.embedding(tokens, weight) of one weight to ``keep``."""

    def __init__(self, weight: Tensor, keep: Keep) -> None:
        super().__init__()
        self._weight, self._keep = weight, keep

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is functional.embedding:
            tokens, weight = (*args, *(kwargs[key] for key in ("input", "weight") if key in kwargs))[:2]
            if weight is self._weight:
                return self._keep(tokens, out)
        return out


@contextmanager
def lookups(module: nn.Embedding, keep: Keep) -> Iterator[None]:
    """Inside, each lookup in the module's own forward pass goes through ``keep``."""
    forward = module.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        with _Lookups(module.weight, keep):
            return forward(*args, **kwargs)

    module.forward = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
