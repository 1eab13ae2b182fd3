"""Figure 4 at the paper's scale: CLIP's image side, its zero-shot heads from class names and prompts, and the data by the hub's names."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from _vit import ClipEncoder
from numpy.typing import NDArray
from torch import Tensor

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # mean and deviation
HUB = {  # name on the hub, configuration
    "RESISC45": ("tanganke/resisc45", None),
    "GTSRB": ("tanganke/gtsrb", None),
    "SVHN": ("ufldl-stanford/svhn", "cropped_digits"),
    "EuroSAT": ("tanganke/eurosat", None),
    "Cars": ("tanganke/stanford_cars", None),
    "SUN397": ("tanganke/sun397", None),
}
AERIAL = ("a satellite photo of {}.", "an aerial photo of {}.", "satellite imagery of {}.")
PROMPTS = {
    "RESISC45": AERIAL,
    "GTSRB": ("a close up photo of a {} traffic sign.", "a centered photo of a {} traffic sign."),
    "SVHN": ('a photo of the number: "{}".',),
    "EuroSAT": AERIAL,
    "Cars": ("a photo of a {}.", "a photo of the {}.", "a photo of my {}."),
    "SUN397": ("a photo of a {}.", "a photo of the {}."),
}
SIGNS = (  # GTSRB's classes 0 to 42, which the hub gives as numbers
    *(f"{speed} kph speed limit" for speed in (20, 30, 50, 60, 70, 80)), "end of 80 kph speed limit",
    "100 kph speed limit", "120 kph speed limit", "no overtaking", "no overtaking by lorries", "right of way at the next crossing",
    "priority road", "give way", "stop", "no vehicles", "no lorries", "no entry", "general danger", "bend to the left",
    "bend to the right", "double bend", "bumpy road", "slippery road", "road narrows on the right", "road works",
    "traffic lights ahead", "pedestrians", "children crossing", "bicycles crossing", "ice or snow", "wild animals crossing",
    "end of all limits", "turn right ahead", "turn left ahead", "ahead only", "straight ahead or right", "straight ahead or left",
    "keep right", "keep left", "roundabout", "end of no overtaking", "end of no overtaking by lorries",
)  # fmt: skip
Tokens = Callable[[list[str]], dict[str, Tensor]]


def image_encoder(source: str) -> ClipEncoder:
    """CLIP's image side with its projection, which is trained and merged."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(source, dtype=torch.float32)
    sides = {"vision_model": model.vision_model, "visual_projection": model.visual_projection}
    return ClipEncoder(torch.nn.ModuleDict(sides), CLIP)


def loaded(task: str, **options: Any) -> Any:
    """A task's splits on the hub."""
    from datasets import load_dataset

    name, config = HUB[task]
    return load_dataset(name, config, **options)


def class_names(task: str) -> list[str]:
    """Words for the classes in their order."""
    if task == "GTSRB":
        return list(SIGNS)
    names = loaded(task, split="test").features["label"].names
    return [name.replace("_", " ") for name in names]


def from_hub(task: str) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Training and test part: pixels uint8 [N, 3, 224, 224], the middle of pictures whose shorter edge is 224, and classes."""
    found = []
    for part in ("train", "test"):
        rows = loaded(task, split=part)
        pixels = np.stack([middle(row["image"]) for row in rows])
        found.append((pixels, np.asarray(rows["label"], dtype=np.int64)))
    return found


def middle(image: Any, size: int = 224) -> NDArray[np.uint8]:
    """The middle square of a PIL picture, its shorter edge brought to ``size``: [3, size, size]."""
    from PIL.Image import Resampling

    image, short = image.convert("RGB"), min(image.size)
    w, h = (max(size, round(edge * size / short)) for edge in image.size)
    left, top = (w - size) // 2, (h - size) // 2
    crop = image.resize((w, h), Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(crop).transpose(2, 0, 1))


def zero_shot_heads(source: str, tasks: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Every task's frozen head, see `zero_shot`, from CLIP's text side."""
    from transformers import AutoTokenizer, CLIPModel

    model, tokenizer = CLIPModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)

    def tokens(texts: list[str]) -> dict[str, Tensor]:
        return dict(tokenizer(texts, padding=True, return_tensors="pt"))

    return [zero_shot(model, tokens, class_names(task), PROMPTS[task]) for task in tasks]


@torch.no_grad()
def zero_shot(
    model: Any, tokens: Tokens, names: Sequence[str], prompts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """weight [C, D]: logit scale times the direction of the mean over prompts of each class's text embeddings; bias 0."""

    def rows() -> Iterator[Tensor]:
        for name in names:
            shown = tokens([prompt.format(name) for prompt in prompts])
            e = model.text_projection(model.text_model(**shown).pooler_output)
            mean = (e / e.norm(dim=-1, keepdim=True)).mean(0)
            yield mean / mean.norm()

    weight = model.logit_scale.exp() * torch.stack(list(rows()))
    return weight.float(), torch.zeros(len(names))
