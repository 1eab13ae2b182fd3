"""On models of transformers squared gradients are those of the loop over single examples without padding."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    BartConfig,
    BertConfig,
    CLIPConfig,
    DistilBertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    ModernBertConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from previa.fit.labels import Given
from previa.fit.squared_gradients import squared_gradients
from previa.fit.token_labels import SampledTokens

# peft asks transformers in a way that is to go
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

V = 40
SMALL = {
    "vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 32, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
EYES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8, "patch_size": 4,
}  # fmt: skip


def build(kind, config, **more):
    transformers.logging.set_verbosity_error()  # of tiny configurations it says much
    return getattr(transformers, kind)(config(**more))


def clip():
    words = {**SMALL, "num_hidden_layers": 1, "projection_dim": 8}
    return build(
        "CLIPForImageClassification", CLIPConfig, vision_config={**EYES, "projection_dim": 8}, text_config=words, num_labels=3
    )  # fmt: skip


def lora():
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "down_proj", "embed_tokens"]
    model = get_peft_model(
        build("LlamaForCausalLM", LlamaConfig, **SMALL), LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    )
    for name, p in model.named_parameters():
        if "lora_B" in name or "lora_embedding" in name:  # B is zero at first, and then A has no gradient
            nn.init.normal_(p, std=0.1)
    return model


def gpt2(**more):
    return build("GPT2LMHeadModel", GPT2Config, vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=2,
                 eos_token_id=3, **more)  # fmt: skip


HEADS = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
CLASSES = {
    "bert": lambda: build("BertForSequenceClassification", BertConfig, **SMALL, num_labels=3),
    "roberta": lambda: build("RobertaForSequenceClassification", RobertaConfig, **SMALL, num_labels=3),
    "modernbert": lambda: build(
        "ModernBertForSequenceClassification", ModernBertConfig, **SMALL, num_labels=3, cls_token_id=2, sep_token_id=3
    ),
    "distilbert": lambda: build(
        "DistilBertForSequenceClassification", DistilBertConfig, vocab_size=V, dim=16, n_layers=2, n_heads=2, hidden_dim=24,
        max_position_embeddings=32, num_labels=3, pad_token_id=1,
    ),
}  # fmt: skip
PICTURES = {
    "vit": lambda: build("ViTForImageClassification", ViTConfig, **EYES, num_labels=3),
    "clip": clip,
}
WORDS = {
    "llama": lambda: build("LlamaForCausalLM", LlamaConfig, **SMALL, num_key_value_heads=1),
    "llama, tied": lambda: build("LlamaForCausalLM", LlamaConfig, **SMALL, tie_word_embeddings=True),
    "gpt2": gpt2,
    "gemma2": lambda: build(
        "Gemma2ForCausalLM", Gemma2Config, **HEADS, sliding_window=4, query_pre_attn_scalar=8
    ),
    "qwen3, tied": lambda: build("Qwen3ForCausalLM", Qwen3Config, **HEADS, tie_word_embeddings=True),
    "mixtral": lambda: build(
        "MixtralForCausalLM",
        MixtralConfig,
        **SMALL,
        num_key_value_heads=1,
        num_local_experts=3,
        num_experts_per_tok=2,
    ),
    "llama with lora": lora,
}
PAIRS = {
    "t5": lambda: build(
        "T5ForConditionalGeneration", T5Config, vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
        relative_attention_num_buckets=8, decoder_start_token_id=0, pad_token_id=1,
    ),
    "bart": lambda: build(
        "BartForConditionalGeneration", BartConfig, vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
    ),
}  # fmt: skip


def lengths(B, T):
    found = torch.randint(T // 2, T + 1, (B,))
    found[0] = T
    return found


def tokens(B, T):
    n = lengths(B, T)
    mask = (torch.arange(T) < n[:, None]).long()
    return torch.where(mask > 0, torch.randint(4, V, (B, T)), 1), mask


def of_classes(B, T):
    ids, mask = tokens(B, T)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.randint(3, (B,))}


def of_pictures(B, T):
    return {"pixel_values": torch.randn(B, 3, 8, 8), "labels": torch.randint(3, (B,))}


def of_words(B, T):
    ids, mask = tokens(B, T)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def of_pairs(B, T):
    ids, mask = tokens(B, T)
    wanted, there = tokens(B, T - 2)
    first = torch.cat([torch.zeros(B, 1, dtype=torch.long), wanted[:, :-1]], 1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": first,
        "labels": wanted.masked_fill(there == 0, -100),
    }


def cross(model, batch):
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return cross_entropy(model(**inputs).logits.float(), batch["labels"], reduction="none")


def next_token(model, batch):
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits, labels = model(**inputs, use_cache=False).logits.float(), batch["labels"]
    if "decoder_input_ids" not in batch:
        logits, labels = logits[:, :-1], labels[:, 1:]
    each = cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return each.sum(1) / (labels != -100).sum(1)


def unpadded(batch, i):
    """Example i alone, its padding cut off."""
    alone = {}
    for name, tensor in batch.items():
        mask = (
            batch["labels"] != -100
            if name in ("decoder_input_ids", "labels")
            else batch.get("attention_mask")
        )
        alone[name] = tensor[i : i + 1] if tensor.dim() != 2 else tensor[i : i + 1, : int(mask[i].sum())]
    return alone


def oracle(model, loss, batches):
    """The definition: one example without padding, one backward pass, square, add; then divide by N."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in params.items()}
    count = 0
    for batch in batches:
        for i in range(len(batch["labels"])):
            count += 1
            grads = torch.autograd.grad(
                loss(model, unpadded(batch, i)).sum(), list(params.values()), allow_unused=True
            )
            for name, grad in zip(params, grads, strict=True):
                if grad is not None:
                    total[name] += grad.double() ** 2
    return {name: tensor / count for name, tensor in total.items()}


def assert_close(found, expected, tolerance=1e-5):
    """Within ``tolerance`` of a tensor's largest entry, where that is more than the square of rounding noise."""
    assert list(found) == list(expected)
    noise = 1e-12 * max(
        float(tensor.max()) for tensor in expected.values()
    )  # an attention's key bias is zero but for that
    for name, tensor in expected.items():
        error = (found[name] - tensor).abs().max()
        assert error <= tolerance * tensor.max() + noise, f"{name}: {float(error / tensor.max())}"


def ready(make, seed=0):
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.dim() < 2:  # ones and zeros of norms and biases would be alike
                p.add_(0.2 * torch.randn_like(p))
    return model


def cases():
    groups = (
        (CLASSES, of_classes, cross),
        (PICTURES, of_pictures, cross),
        (WORDS, of_words, next_token),
        (PAIRS, of_pairs, next_token),
    )
    for models, data, loss in groups:
        for name, make in models.items():
            yield pytest.param(make, data, loss, id=name)


REPLAYED = {  # by the end of their names, what is run again: copies of norms, class tokens; T5's table in its attention
    "vit": {"cls_token", "position_embeddings"}, "clip": {"class_embedding"}, "llama": {"layernorm.weight", "norm.weight"},
    "llama, tied": {"layernorm.weight", "norm.weight"}, "gemma2": {"layernorm.weight", "norm.weight"},
    "qwen3, tied": {"norm.weight"}, "mixtral": {"norm.weight", "gate.weight", "gate_up_proj", "down_proj"},
    "t5": {"norm.weight", "relative_attention_bias.weight"}, "llama with lora": {"lora_embedding_A.default", "lora_embedding_B.default"},
}  # fmt: skip


@pytest.mark.parametrize(("make", "data", "loss"), [*cases()])
def test_every_architecture_gives_what_the_loop_gives_padded_and_masked(make, data, loss, request):
    model = ready(make)
    # as many examples as tokens in the second: a mask or a table of positions may be taken for examples there
    batches = [data(4, 7), data(6, 6), data(1, 5)]
    found = squared_gradients(model, batches, Given(loss))
    assert_close(found.mean, oracle(model, loss, batches))
    assert found.note == ""
    again = {name for name, way in found.ways.items() if way == "replay"}
    ends = tuple(REPLAYED.get(request.node.callspec.id, ()))
    assert all(name.endswith(ends) for name in again), again
    assert all(any(name.endswith(end) for name in again) for end in ends), again


def test_a_first_batch_with_as_many_examples_as_tokens_is_no_trap():
    model = ready(PAIRS["t5"])
    batches = [of_pairs(7, 7), of_pairs(5, 7)]
    assert_close(
        squared_gradients(model, batches, Given(next_token)).mean, oracle(model, next_token, batches)
    )


def test_position_ids_expanded_to_the_batch_change_nothing():
    for make in (CLASSES["bert"], gpt2):
        model, batch = ready(make), of_words(4, 6)
        batch["labels"] = torch.randint(3, (4,)) if make is CLASSES["bert"] else batch["labels"]
        loss = cross if make is CLASSES["bert"] else next_token
        more = {**batch, "position_ids": torch.arange(6).expand(4, 6).contiguous()}
        plain, given = (squared_gradients(model, [b], Given(loss)).mean for b in (batch, more))
        assert_close(given, plain)


def test_the_gradient_of_a_tied_embedding_is_summed_over_its_uses_before_squaring():
    model, batch = ready(WORDS["llama, tied"]), of_words(3, 6)
    tied = squared_gradients(model, [batch], Given(next_token)).mean["model.embed_tokens.weight"]
    untied = ready(WORDS["llama, tied"])
    untied.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    apart = squared_gradients(untied, [batch], Given(next_token)).mean
    separate = apart["model.embed_tokens.weight"] + apart["lm_head.weight"]
    assert (tied - separate).abs().max() > 1e-2 * tied.max()  # the cross term is there
    assert_close({"w": tied}, {"w": oracle(model, next_token, [batch])["model.embed_tokens.weight"]})


def test_a_large_tied_vocabulary_is_squared_a_piece_at_a_time(monkeypatch):
    from previa.fit import tied

    monkeypatch.setattr(tied, "CACHE", 16 * 7)  # seven rows of the vocabulary
    model, batches = ready(gpt2), [of_words(3, 6), of_words(2, 5)]
    assert_close(
        squared_gradients(model, batches, Given(next_token)).mean, oracle(model, next_token, batches)
    )


def test_activations_that_are_recomputed_go_by_the_loop():
    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = (
                nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)),
                nn.Linear(4, 3),
            )

        def forward(self, x):
            return self.head(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False))

    torch.manual_seed(0)
    model, x = Recomputed(), torch.randn(5, 4)

    def loss(model, batch):
        return cross_entropy(model(batch["x"]), batch["labels"], reduction="none")

    batches = [{"x": x, "labels": torch.tensor([0, 1, 2, 0, 1])}]
    found = squared_gradients(model, batches, Given(loss))
    params = dict(model.named_parameters())
    expected = {name: torch.zeros_like(p) for name, p in params.items()}
    for i in range(5):
        one = loss(model, {"x": x[i : i + 1], "labels": batches[0]["labels"][i : i + 1]})
        for name, grad in zip(params, torch.autograd.grad(one.sum(), list(params.values())), strict=True):
            expected[name] += grad**2 / 5
    assert_close(found.mean, expected)
    assert "loop" in found.ways.values()
    assert found.note


def test_gradient_checkpointing_of_transformers_changes_nothing_outside_of_training():
    model, batch = ready(WORDS["llama"]), of_words(3, 6)
    plain = squared_gradients(model, [batch], Given(next_token)).mean
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    found = squared_gradients(model, [batch], Given(next_token))
    assert torch.equal(found.mean.vector, plain.vector)
    assert found.note == ""


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_in_bfloat16_is_summed_in_float32(name):
    model, batches = ready(WORDS[name]), [of_words(6, 8) for _ in range(4)]
    exact = squared_gradients(model, batches, Given(next_token)).mean
    half = squared_gradients(model.bfloat16(), batches, Given(next_token))
    assert half.mean.vector.dtype == torch.float32
    for tensor, other in zip(half.mean.values(), exact.values(), strict=True):
        # 8 bits: gradients are off by some percent, their squares by twice that; sums in 8 bits would stand still
        assert float(tensor.sum() / other.sum()) == pytest.approx(1, abs=0.1)


def supervised(model, batch):
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits
    return logits[:, :-1], batch["labels"][:, 1:] != -100


def test_sampled_tokens_do_not_depend_on_padding_or_the_cut_into_batches():
    model, batch = ready(WORDS["llama"]), of_words(8, 7)

    def drawn(batches, split=None):
        labels = SampledTokens(supervised, torch.Generator().manual_seed(3))
        more = {} if split is None else {"split": split}
        return squared_gradients(model, batches, labels, **more)

    halves = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 5), slice(5, 8))]
    whole = drawn([batch])
    assert_close(drawn(halves).mean, whole.mean)
    assert_close(drawn([unpadded(batch, i) for i in range(8)]).mean, whole.mean)
    assert_close(drawn([batch], lambda b: [unpadded(b, i) for i in range(8)]).mean, whole.mean)
    assert whole.label_mode == "sampled"


def test_sampled_tokens_have_the_models_frequencies_where_they_are_supervised():
    p = torch.tensor([0.5, 0.2, 0.3])
    logits, mask = p.log().expand(4_000, 12, 3), torch.arange(12).expand(4_000, 12) < 10
    drawn = SampledTokens(supervised, torch.Generator().manual_seed(0)).targets((logits, mask))
    counts = torch.bincount(drawn[mask], minlength=3) / 40_000
    assert ((counts - p).abs() < 4 * (p * (1 - p) / 40_000).sqrt()).all()  # four standard errors
    assert not drawn[~mask].any()
