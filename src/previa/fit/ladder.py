"""Where each parameter's per-example gradients are formed, and where next when they turn out wrong there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import final

from torch import nn
from torch.nn import Module, ModuleDict, ModuleList, Parameter

from previa.fit.rules import RULES, Rule, has_rule, rule_of


@final
@dataclass(frozen=True)
class Unit:
    """A module whose calls are recorded; ``names`` maps its parameters' names inside it to the model's.

    way: "hook", by ``rule``; "lookup", by ``rule`` at the lookup inside an embedding of another kind; "copies", the module run
    again with a copy of its parameters for each example; "replay", run again on each example alone.
    """

    module: Module
    names: Mapping[str, str]
    way: str
    rule: Rule | None = None


@final
class Ladder:
    """For each trainable parameter the rung it stands on.

    First at the modules that own it: by the layer's rule, at the lookup inside it, or with copies. A parameter that climbs
    is differentiated by replaying its owner, then the module that encloses all its owners, then the one around that; the
    last rung, the model itself, is the loop over whole examples. Only the parameters that climb go the slower way.
    """

    def __init__(self, model: Module, trainable: Mapping[str, Parameter]) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._name_of = {parameter: name for name, parameter in trainable.items()}
        self._paths: dict[str, list[str]] = {name: [] for name in trainable}
        for path, module in self._modules.items():
            for name in self._own(module).values():
                self._paths[name].append(path)
        self._replayed: dict[str, str] = {}  # name -> path of the module that is replayed for it
        self.looped: tuple[str, ...] = ()
        itself = self._own(model)
        if itself and not has_rule(model):
            self.looped = tuple(itself.values())
        self.units = self._units()
        """The modules to be recorded, with the parameters whose gradients they give."""

    def _units(self) -> list[Unit]:
        units = []
        for module in dict.fromkeys(self._modules.values()):
            names = {
                local: name
                for local, name in self._own(module).items()
                if name not in self._replayed and name not in self.looped
            }
            if names:
                units.append(_first(module, names))
        for path in dict.fromkeys(self._replayed.values()):
            names = {n.removeprefix(f"{path}."): n for n, at in self._replayed.items() if at == path}
            units.append(Unit(self._modules[path], names, "replay"))
        return units

    def ways(self) -> dict[str, str]:
        """name -> "hook", "replay" or "loop"."""
        ways = dict.fromkeys(self._paths, "loop")
        for unit in self.units:
            way = "hook" if unit.rule is not None else "replay"
            ways |= {name: "replay" if ways[name] == "replay" else way for name in unit.names.values()}
        return ways

    def climb(self, names: Iterable[str]) -> None:
        """Each of ``names`` goes one rung up."""
        for name in dict.fromkeys(names):
            if name in self.looped:
                continue
            path = self._above(name)
            while path and isinstance(self._modules[path], ModuleList | ModuleDict):  # never called
                path = path.rpartition(".")[0]
            self._replayed.pop(name, None)
            if path:
                self._replayed[name] = path
            else:
                self.looped += (name,)
        self.units = self._units()

    def _above(self, name: str) -> str:
        if name in self._replayed:
            return self._replayed[name].rpartition(".")[0]
        paths = self._paths[name]
        if len(paths) > 1:
            steps = zip(*(path.split(".") for path in paths), strict=False)
            return ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))
        owner = self._modules[paths[0]]
        copied = _first(owner, {local: n for local, n in self._own(owner).items() if n == name}).rule is None
        return paths[0] if copied else paths[0].rpartition(".")[0]

    def _own(self, module: Module) -> dict[str, str]:
        own = module.named_parameters(recurse=False, remove_duplicate=False)
        return {local: self._name_of[p] for local, p in own if p in self._name_of}


def _first(module: Module, names: Mapping[str, str]) -> Unit:
    """The unit of a module's own parameters on the first rung."""
    if has_rule(module):
        return Unit(module, names, "hook", rule_of(module))
    lookup = (
        isinstance(module, nn.Embedding)
        and type(module) is not nn.Embedding
        and set(names) == {"weight"}
        and "forward" not in vars(module)
        and module.max_norm is None
        and not module.scale_grad_by_freq
    )
    return Unit(module, names, "lookup", RULES[nn.Embedding]) if lookup else Unit(module, names, "copies")
