"""Tiny models of transformers from their configurations, tiny tokenised tasks for them, and a loss for each example."""

import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

VOCABULARY = 23


def classifier(seed=0, dropout=0.0, dtype=torch.float32):
    """2 classes; its loss is the mean over rows."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, num_labels=2,
        attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config).to(dtype)


def language_model(seed=0, dtype=torch.float32):
    """A causal language model; its loss is the mean over supervised tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype)


def sentences(N, seed=0, tilt=0.0):
    """Rows of 4 to 9 tokens with a label that their first token tells; tilt moves the border between the classes."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(N):
        length = int(torch.randint(4, 10, (), generator=draw))
        ids = torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": int(ids[0] > VOCABULARY * (0.5 + tilt))})
    return rows


def texts(N, seed=0, length=None):
    """Rows of tokens that are their own labels, the first two unsupervised; of one length, or of 4 to 9."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(N):
        n = length or int(torch.randint(4, 10, (), generator=draw))
        start = int(torch.randint(3, VOCABULARY, (), generator=draw))
        ids = [(start + i) % (VOCABULARY - 3) + 3 for i in range(n)]
        rows.append({"input_ids": ids, "labels": [-100, -100, *ids[2:]]})
    return rows


def collate(rows):
    """Rows padded to the longest; labels of tokens with -100."""
    longest = max(len(row["input_ids"]) for row in rows)
    pad = [longest - len(row["input_ids"]) for row in rows]
    labels = [row["labels"] for row in rows]
    if isinstance(labels[0], list):
        labels = [each + [-100] * n for each, n in zip(labels, pad, strict=True)]
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * n for row, n in zip(rows, pad, strict=True)]),
        "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in pad]),
        "labels": torch.tensor(labels),
    }


def losses(model, batch):
    """The loss of each example, [B]: of its class, or the mean over its supervised tokens."""
    labels = batch["labels"]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    if labels.dim() == 1:
        return cross_entropy(logits, labels, reduction="none")
    each = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
    return each.sum(1) / (labels[:, 1:] != -100).sum(1)


def supervised(row):
    """How many tokens of a row are supervised."""
    return sum(label != -100 for label in row["labels"][1:])


def flat(model):
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])
