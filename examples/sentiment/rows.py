"""Made-up reviews of films, food and phones, a sentence and its label a row: `python rows.py` writes the folder rows.

Some words are good or bad everywhere. Others depend on the task: an unpredictable film is good, an unpredictable phone is not.
"""

import json
import random
from pathlib import Path

EVERYWHERE = {"good": 1, "great": 1, "lovely": 1, "bad": -1, "awful": -1, "poor": -1}
OF_TASK = {
    "films": {"moving": 1, "witty": 1, "unpredictable": 1, "wooden": -1, "endless": -1, "light": -1},
    "food": {"fresh": 1, "crisp": 1, "hot": 1, "stale": -1, "soggy": -1, "unpredictable": -1},
    "phones": {"sturdy": 1, "sharp": 1, "light": 1, "laggy": -1, "dim": -1, "hot": -1},
}
NEUTRAL = [
    "the",
    "a",
    "it",
    "was",
    "is",
    "we",
    "had",
    "this",
    "one",
    "with",
    "and",
    "for",
    "so",
    "really",
    "rather",
    "quite",
    "today",
    "again",
    "all",
    "here",
]
SIZES = {"films": 400, "food": 200, "phones": 100}
TEST = 300


def review(polarity: dict[str, int], draw: random.Random) -> dict[str, str | int]:
    """A row: three words that count, among four that do not; at three words there is no tie."""
    told = draw.choices([word for word, sign in polarity.items() if sign], k=3)
    words = told + draw.sample(NEUTRAL, 4)
    draw.shuffle(words)
    return {"text": " ".join(words), "label": int(sum(polarity[word] for word in told) > 0)}


def write(path: Path, N: int, polarity: dict[str, int], seed: int) -> None:
    """N reviews as JSON Lines."""
    draw = random.Random(seed)
    path.write_text("".join(json.dumps(review(polarity, draw)) + "\n" for _ in range(N)), encoding="utf-8")


def main() -> None:
    """General rows, on which a base is pretrained, and each task's train and test rows."""
    folder = Path("rows")
    folder.mkdir(exist_ok=True)
    write(folder / "general.jsonl", 600, EVERYWHERE, seed=0)
    for number, (task, own) in enumerate(OF_TASK.items(), 1):
        write(folder / f"{task}-train.jsonl", SIZES[task], EVERYWHERE | own, seed=number)
        write(folder / f"{task}-test.jsonl", TEST, EVERYWHERE | own, seed=100 + number)


if __name__ == "__main__":
    main()
