"""adapter_config.json of a merged adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from previa.io.adapter_folder import Adapter, settings_key
from previa.io.adapter_match import KNOWN_OR_NOT
from previa.io.adapter_product import Products

TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def average_settings(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """The first task's settings, with what only another task's PEFT was told."""
    configs = [dict(adapter.config) for adapter in adapters.values()]
    told = {key: next((c[key] for c in configs if c.get(key)), None) for key in sorted(KNOWN_OR_NOT)}
    return {**configs[0], **told, "inference_mode": True}


def product_settings(products: Products, row: int) -> dict[str, Any]:
    """The same with the ranks of a sum of products, a scaling of 1 for each, and the modules that it has."""
    ranks = products.ranks(row)
    keys = {settings_key(module): rank for module, rank in ranks.items()}
    most, _ = Counter(ranks.values()).most_common(1)[0]
    other = [key for key, rank in keys.items() if rank != most]
    # PEFT takes the first pattern that a module's name ends with: longer names come first, and what would end with a
    # shorter one is named too.
    pattern = {
        key: rank
        for key, rank in sorted(keys.items(), key=lambda pair: -len(pair[0]))
        if any(key == name or key.endswith(f".{name}") for name in other)
    }
    targets: dict[str, Any] = dict.fromkeys(TARGETS) | {"target_modules": sorted(keys)}
    same = next((a.config for a in products.tasks.values() if set(a.pairs) == set(ranks)), None)
    if same is not None:
        targets = {key: same.get(key) for key in TARGETS}
    return {
        **average_settings(products.tasks),
        **targets,
        "r": most,
        "lora_alpha": most,
        "use_rslora": False,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "init_lora_weights": True,  # loading overwrites it anyway; others may change the base weights by the rank
        "eva_config": None,
    }
