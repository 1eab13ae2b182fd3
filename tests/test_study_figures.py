"""Which pictures a study's results call for."""

import numpy as np

from previa.show.figures import NAMES, figures
from previa.show.outputs import Results
from previa.study.simplex import grid, uniform
from previa.study.store import Store


def filled(path, T, *, steps, few=None, methods=("simple", "mixture"), searched=False):
    tasks = tuple("abcdef"[:T])
    with Store.open(path, tasks=tasks, convention="mean", fingerprint={}) as store:
        alphas = np.vstack([grid(T, steps), uniform(T)])
        if few is not None:
            alphas = np.vstack([np.eye(T), uniform(T), alphas[:: len(alphas) // few]])
        for number, method in enumerate(methods):
            for alpha in alphas:
                scores = {
                    t: float(np.sqrt(a) - 0.1 * number * (1 - a) ** 2)
                    for t, a in zip(tasks, alpha, strict=True)
                }
                store.record(method, alpha, scores, seconds=0.0)
        store.put("method", methods[-1])
        if searched:
            order = alphas.tolist()
            store.put("searches", {methods[-1]: {"steps": steps, "start": T + 1, "order": order}})
    return path


def names(path, folder):
    with Store.read(path) as store:
        made = figures(store, Results.of(store), folder)
    assert {one.name for one in folder.glob("*.png")} == {one.name for one in made}
    assert all(one.stat().st_size > 3000 for one in made)
    return {one.stem for one in made}


ALWAYS = {"contours", "histograms", "per_task", "pareto", "what_if"}


def test_three_tasks_and_two_methods_have_a_map_of_disagreement(tmp_path):
    assert names(filled(tmp_path / "study.db", 3, steps=5), tmp_path) == {*ALWAYS, "disagreement"}


def test_one_method_disagrees_with_none_and_four_tasks_have_slices_and_lines(tmp_path):
    path = filled(tmp_path / "study.db", 4, steps=4, methods=("simple",))
    assert names(path, tmp_path) == {*ALWAYS, "slices", "parallel"}


def test_a_search_has_its_surrogate_and_a_complete_grid_has_none(tmp_path):
    few = filled(tmp_path / "few.db", 3, steps=8, few=6, methods=("simple",), searched=True)
    assert names(few, tmp_path) == {*ALWAYS, "surrogate"}
    whole = filled(tmp_path / "whole.db", 3, steps=8, methods=("simple",), searched=True)
    assert names(whole, tmp_path) == ALWAYS  # that of the search is removed


def test_a_validated_preview_is_drawn_corrected(tmp_path):
    path = filled(tmp_path / "study.db", 3, steps=5, methods=("simple",))
    with Store.open(path, tasks=("a", "b", "c"), convention="mean", fingerprint={}) as store:
        store.record("joint_given", uniform(3), {"a": 0.9, "b": 0.8, "c": 0.9}, seconds=0.0)
        store.put("validation", {"method": "simple", "exact_corners": True})
    assert names(path, tmp_path) == {*ALWAYS, "corrected"}
    with Store.read(path) as store:
        found = Results.of(store).corrected
    at = found.preview.index(uniform(3))
    np.testing.assert_allclose(
        found.preview.scores[at], [0.9, 0.8, 0.9], atol=1e-9
    )  # one run: the offset there


def test_every_picture_has_a_name_of_its_own():
    assert len(set(NAMES)) == len(NAMES)
