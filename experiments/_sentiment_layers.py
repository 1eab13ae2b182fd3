"""An encoder of which only the top layers are trained: what is below runs once for each text.

The layers below are frozen and without noise, so that their output is a constant of the text: kept, it stands in for the tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.functional import scaled_dot_product_attention


class Passing(Module):
    """Stands in for a part that has been run already: hands on what it is given."""

    def forward(
        self, hidden: Tensor | None = None, *_: Any, inputs_embeds: Tensor | None = None, **__: Any
    ) -> Tensor:
        """What came from below, or was handed to the model as ``inputs_embeds``."""
        return inputs_embeds if hidden is None else hidden


class First(Module):
    """A layer of BERT or RoBERTa whose output is needed at the first token only, as in the last one below a classifier.

    Every token is a key and a value, only the first is a query: what it puts out there is what the layer itself does.
    """

    def __init__(self, layer: Module) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output

    def forward(self, hidden: Tensor, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """[B, words, width] -> [B, 1, width]; mask: as the encoder hands it to its layers, [B, 1, words or 1, words]."""
        own, x = self.attention.self, hidden[:, :1]
        q, k, v = (
            f(y).unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)
            for f, y in ((own.query, x), (own.key, hidden), (own.value, hidden))
        )
        mask = None if mask is None else mask[:, :, :1]
        chance = own.dropout.p if self.training else 0.0
        context = scaled_dot_product_attention(q, k, v, mask, chance).transpose(1, 2).flatten(2)
        x = self.attention.output(context, x)
        return self.output(self.intermediate(x), x)


def encoder(source: str, dropout: float, seed: int) -> Module:
    """A sequence classifier of two classes; the head's first parameters depend on the seed only.

    source: a folder, a hub's name, or "tiny" for a small one that was never trained.
    """
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # that the head is new is no news
    logging.disable_progress_bar()
    chances = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if source == "tiny":
            sizes = {
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            }
            return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **sizes, **chances))
        return AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=2, dtype=torch.float32, **chances
        )


VOCABULARY = 500  # of the tiny one


def upper(model: Module, layers: int) -> Module:
    """The model cut in place to its top layers and its head: it takes the output of those below as ``inputs_embeds``."""
    base = model.base_model
    base.embeddings = Passing()
    for index in range(len(base.encoder.layer) - layers):
        base.encoder.layer[index] = Passing()
    base.encoder.layer[-1] = First(base.encoder.layer[-1])
    return model


@torch.no_grad()
def lower(model: Module, layers: int, tokens: dict[str, Tensor]) -> Tensor:
    """What the layers below the top ones make of each text, [N, words, width]; the model loses its top layers."""
    base = model.base_model.eval()
    base.encoder.layer = nn.ModuleList(base.encoder.layer[: len(base.encoder.layer) - layers])
    device = next(base.parameters()).device
    out = torch.empty(*tokens["input_ids"].shape, base.config.hidden_size)
    lengths = tokens["attention_mask"].sum(-1)
    for rows in lengths.argsort(stable=True).split(64):  # of like length: less padding
        longest = int(lengths[rows].max())
        ids, mask = (tokens[name][rows, :longest].to(device) for name in ("input_ids", "attention_mask"))
        out[rows, :longest] = base(input_ids=ids, attention_mask=mask).last_hidden_state.cpu()
        out[rows, longest:] = 0.0
    return out
