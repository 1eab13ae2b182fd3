"""Folders as transformers writes them: tiny models with a tokenizer of a few words, and data for them."""

import json

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

WORDS = [f"w{i}" for i in range(20)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]
VOCABULARY = len(WORDS) + len(SPECIAL)
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 4,
}  # fmt: skip
transformers.logging.set_verbosity_error()


def tokenizer(folder, pairs=True):
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if pairs:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "</s>",
    }
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if pairs else ["input_ids", "attention_mask"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=16, model_input_names=inputs, **names
    )
    made.save_pretrained(folder)
    return made


def saved(model, folder, seed=0):
    """In evaluation mode, as it is stored; norms and biases moved, which would be alike."""
    with torch.no_grad():
        draw = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            if p.dim() < 2:
                p.add_(0.2 * torch.randn(p.shape, generator=draw))
    model.save_pretrained(folder)
    return model.eval()


def classifier(folder, seed=0, classes=3, **more):
    torch.manual_seed(seed)
    config = BertConfig(**SMALL, num_labels=classes, **more)
    tokenizer(folder)
    return saved(BertForSequenceClassification(config), folder)


def language_model(folder, seed=0, **more):
    torch.manual_seed(seed)
    tokenizer(folder, pairs=False)
    return saved(LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True, **more)), folder)


def translator(folder, seed=0):
    torch.manual_seed(seed)
    tokenizer(folder, pairs=False)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2, relative_attention_num_buckets=8,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=4,
    )  # fmt: skip
    return saved(T5ForConditionalGeneration(config), folder)


def viewer(folder, seed=0):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2},
    )  # fmt: skip
    model = saved(ViTForImageClassification(config), folder)
    settings = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return model


def adapter(folder, base, seed=0):
    """A LoRA of the language model in ``base``, on the base's own path."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    inner = LlamaForCausalLM.from_pretrained(base)
    model = get_peft_model(
        inner, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    return model.eval()


def sentences(N, seed=0, low=2, high=9):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(low, high))) for _ in range(N)]


def labelled(N, seed=0, classes=3):
    draw = np.random.default_rng(seed + 1)
    return [{"text": text, "label": int(draw.integers(classes))} for text in sentences(N, seed)]


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
