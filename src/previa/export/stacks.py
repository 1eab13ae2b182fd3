"""All training stacks that a mixture can be handed over to."""

from __future__ import annotations

from previa.export import (
    alignment_handbook,
    axolotl,
    datasets,
    llama_factory,
    megatron,
    megatron_bridge,
    ms_swift,
    nemo,
    olmo_core,
    open_instruct,
    torchtune,
    trl,
)
from previa.export.stack import Stack

STACKS: dict[str, Stack] = {
    module.STACK.name: module.STACK
    for module in (
        datasets, trl, alignment_handbook, open_instruct, llama_factory, ms_swift,
        megatron, nemo, megatron_bridge, olmo_core, axolotl, torchtune,
    )
}  # fmt: skip
