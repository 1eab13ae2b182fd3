"""Which parameter each number in an optimizer's state_dict means: from its own names, or from how trainers cut groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from previa.errors import InputError, ParamsError

Groups = list[list[str]]
"""Names of parameters, one list an optimizer's group, in its order."""

# transformers.Trainer.get_decay_parameter_names: its present patterns (they are matched in lower case), those of the releases
# before, and the first ones, which knew norms by their class alone.
_NO_DECAY = (r"bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm($|\.)", r"bias|layernorm|rmsnorm", "bias")


def trainer_groups(model: nn.Module, no_decay: str = _NO_DECAY[0]) -> Groups:
    """The two groups that the Hugging Face Trainer makes: with weight decay, and without (biases and norms).

    no_decay: what the lower-case names of parameters without decay contain; those of a LayerNorm have none in any case.
    """

    def decays(name: str, p: Tensor, around: list[nn.Module]) -> bool:
        return not re.search(no_decay, name.lower()) and not any(isinstance(m, nn.LayerNorm) for m in around)

    return _two(model, decays)


def group_names(
    groups: Sequence[Mapping[str, Any]], model: nn.Module, shapes: Sequence[Any], what: str
) -> Groups:
    """The names of the parameters in each group of a state_dict, as it says itself or as the one known rule has it that fits.

    shapes: one tuple a number, None where the state has no tensor; what: who asks, for errors. Names in the groups are those of
    torch.optim.AdamW(model.named_parameters()) and of FSDP. Else the rules are one group in the model's order (of all parameters
    or of the trainable ones), the Trainer's two of its several releases, and matrices before vectors; numbers and shapes must fit.
    Shapes cannot tell apart parameters of one shape, and nothing in the file can: groups or an order of one's own must be named
    by the caller, or layers of one shape are silently swapped.
    Raises ParamsError where no rule fits, InputError where several do and disagree.
    """
    own = [_own_names(group) for group in groups]
    if all(names is not None for names in own):
        return [list(names or ()) for names in own]
    sizes = [len(group["params"]) for group in groups]
    fitting: list[Groups] = []
    wrong = ""
    for found in _by_rules(model):
        if [len(names) for names in found] != sizes:
            continue
        wrong = wrong or _misshapen(found, model, shapes)
        if not _misshapen(found, model, shapes) and found not in fitting:
            fitting.append(found)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        first, other = ([name for names in found for name in names] for found in fitting[:2])
        number = next(i for i, (a, b) in enumerate(zip(first, other, strict=True)) if a != b)
        raise InputError(
            f"{what}: parameter {number} of the optimizer may be {first[number]!r} or {other[number]!r}, which have one shape. "
            "Pass names=, the parameters' names in each group."
        )
    trainable = sum(p.requires_grad for p in model.parameters())
    raise ParamsError(
        f"{what}: the optimizer's groups have {' and '.join(map(str, sizes))} parameters, and the model {trainable} trainable "
        f"ones, which no known rule cuts so{wrong}. Hand in the model that was trained, or pass names=, the parameters' names "
        "in each group."
    )


def check_names(
    names: Groups, groups: Sequence[Mapping[str, Any]], model: nn.Module, shapes: Sequence[Any], what: str
) -> None:
    """Raise ParamsError unless each group has that many names, each once, of parameters of the model with these shapes."""
    sizes = [len(group["params"]) for group in groups]
    if [len(one) for one in names] != sizes:
        raise ParamsError(
            f"{what}: names holds {' and '.join(str(len(one)) for one in names)} names, but the optimizer's groups have "
            f"{' and '.join(map(str, sizes))} parameters. Give one list of names a group, in the optimizer's order."
        )
    known, seen = dict(model.named_parameters()), set()
    for name in (name for one in names for name in one):
        if name not in known or name in seen:
            fault = "is named twice" if name in seen else "is no parameter of the model"
            raise ParamsError(
                f"{what}: {name!r} in the optimizer {fault}. Hand in the model that it trained."
            )
        seen.add(name)
    if wrong := _misshapen(names, model, shapes):
        raise ParamsError(
            f"{what}: the names do not fit the optimizer's state{wrong}. Is this the model that it trained?"
        )


def _own_names(group: Mapping[str, Any]) -> list[str] | None:
    if "param_names" in group:
        return list(group["param_names"])
    params = list(group["params"])
    return params if params and all(isinstance(one, str) for one in params) else None


def _by_rules(model: nn.Module) -> Iterator[Groups]:
    yield [[name for name, p in model.named_parameters() if p.requires_grad]]
    yield [[name for name, _ in model.named_parameters()]]
    for no_decay in _NO_DECAY:
        yield trainer_groups(model, no_decay)
    yield _two(model, lambda name, p, around: "bias" not in name and not any(map(_is_norm, around)))
    yield _two(model, lambda name, p, around: p.dim() >= 2)


def _is_norm(module: nn.Module) -> bool:
    """As the first releases of the Trainer had it, which knew the RMSNorms of the models that came with them too."""
    return (
        isinstance(module, nn.LayerNorm) or re.search("(Layer|RMS)Norm$", type(module).__name__) is not None
    )


def _two(model: nn.Module, decays: Callable[[str, Tensor, list[nn.Module]], bool]) -> Groups:
    """The trainable parameters in two groups; decays(name, parameter, the modules that it is in, but the model itself)."""
    modules = dict(model.named_modules())
    with_decay: list[str] = []
    without: list[str] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            steps = name.split(".")[:-1]
            around = [modules[".".join(steps[: i + 1])] for i in range(len(steps))]
            (with_decay if decays(name, p, around) else without).append(name)
    return [with_decay, without]


def _misshapen(names: Groups, model: nn.Module, shapes: Sequence[Any]) -> str:
    """What does not fit, in words; empty where all does."""
    known = dict(model.named_parameters())
    flat = [name for one in names for name in one]
    for number, (name, shape) in enumerate(zip(flat, shapes, strict=True)):
        if shape is not None and tuple(known[name].shape) != shape:
            return (
                f" (parameter {number} has shape {shape} there, but {name!r} has {tuple(known[name].shape)})"
            )
    return ""
