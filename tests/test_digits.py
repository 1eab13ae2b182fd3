"""The digits: the same split in every process, and no image on two sides of it."""

import sys

import pytest
import torch

from previa.data import digits
from previa.errors import MissingExtraError

TASKS = {"0-1": digits.zero_one, "2-4": digits.two_four, "5-9": digits.five_nine}


def rows(images: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(image) for image in images.tolist()]


def test_no_image_is_both_trained_on_and_tested_and_all_are_used():
    pretrain, test = digits.pretraining()
    parts = [pretrain, test, *(task()[0] for task in TASKS.values())]
    everything = [row for images, _ in parts for row in rows(images)]
    assert len(everything) == 1797
    assert len(set(everything)) == 1797
    tested = {row for task in TASKS.values() for row in rows(task()[1][0])}
    assert tested == set(rows(test[0]))


def test_tasks_are_groups_of_digits_of_unequal_sizes():
    sizes = []
    for name, task in TASKS.items():
        (images, targets), (_, test_targets) = task()
        first, last = (int(digit) for digit in name.split("-"))
        assert set(targets.tolist()) == set(test_targets.tolist()) == set(range(first, last + 1))
        assert images.shape == (len(targets), 64)
        assert 0 <= float(images.min()) < float(images.max()) <= 1
        sizes.append(len(targets))
    assert sizes == [150, 227, 374]


def test_the_split_and_the_model_do_not_depend_on_the_global_state():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [p.clone() for p in digits.build().parameters()]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, digits.build().parameters(), strict=True))
    assert not torch.equal(first[0], next(digits.build(seed=1).parameters()))
    assert int((16 * digits.two_four()[0][0]).sum()) == 71078  # of this very split, on every machine


def test_without_scikit_learn_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._images.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'previa\[demo\]'"):
        digits._images()
