"""Where names beside points stand, so that none covers a mark, a line or another name."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from previa.show._look import Array

RADII = (2.5, 4, 6, 9, 13, 18, 25, 34, 46, 60, 80)  # points from a mark to its name
ANGLES = np.arange(24) * (np.pi / 12)
COVERED, STRUCK, CROSSED, FAR, SIDE = 1e3, 60.0, 25.0, 1.0, 1.5
"""what it costs to cover a point^2, to lie on a line or leader, to lead across a mark, to be a point away, to turn by a radian"""
AIR = 0.7  # points that names keep free around them
LEAD = 8  # points: a name further from its mark gets a leader, a line to it
KEPT = 56  # places of each name that are tried together, those cheapest alone
TIE = 1e-9  # of the cost of one overlap, which is some units: places that differ by less are equally good
STARTS, SWEEPS = 24, 8


@dataclass(frozen=True)
class Scene:
    """What names must not cover: boxes [B, 4] (left, bottom, right, top) and lines [L, 4] (from x, y to x, y), in bounds [4]."""

    boxes: Array
    lines: Array
    bounds: Array


def arranged(points: Array, sizes: Array, scene: Scene) -> Array:
    """The lower left corners [n, 2] of n names of sizes [n, 2] beside points [n, 2], all in points (1/72 inch).

    Each name has up to KEPT places around its mark, which cost what they cover, cross and are away. Names choose in turn, the
    cheapest place given the others, until none moves; of STARTS such rounds from drawn starts the cheapest is taken.
    """
    n = len(points)
    if not n:
        return np.zeros((0, 2))
    found = [_candidates(p, size, scene) for p, size in zip(points, sizes, strict=True)]
    owner = np.repeat(np.arange(n), [len(cost) for _, cost in found])
    places, own = np.concatenate([p for p, _ in found]), np.concatenate([cost for _, cost in found])
    between = _between(places, points[owner], sizes[owner])
    rows = [np.flatnonzero(owner == i) for i in range(n)]
    draw, best, least = np.random.default_rng(0), np.zeros(n, dtype=np.intp), np.inf
    for start in range(STARTS):
        chosen = np.array([r[0] if start == 0 else r[draw.integers(len(r))] for r in rows])
        for _ in range(SWEEPS):
            before = chosen.copy()
            for i in draw.permutation(n):
                others = np.delete(chosen, i)
                chosen[i] = rows[i][np.argmin(own[rows[i]] + between[np.ix_(rows[i], others)].sum(1))]
            if (chosen == before).all():
                break
        total = own[chosen].sum() + between[np.ix_(chosen, chosen)].sum() / 2
        if total < least - TIE:  # of equals the first
            best, least = chosen, total
    return np.asarray(places[best])


def ends(points: Array, corners: Array, sizes: Array) -> Array:
    """The points of the names' boxes that are nearest to their marks, where leaders end: [n, 2]."""
    return np.asarray(np.clip(points, corners, corners + sizes))


def led(points: Array, corners: Array, sizes: Array) -> Array:
    """The leaders [n, 4]; of no length where a name is so near to its mark that it needs none."""
    to = ends(points, corners, sizes)
    far = np.linalg.norm(to - points, axis=1) > LEAD
    return np.concatenate([points, np.where(far[:, None], to, points)], 1)


def _candidates(point: Array, size: Array, scene: Scene) -> tuple[Array, Array]:
    """The cheapest places inside of the bounds (pushed inside where there is none), and what each costs alone: [A, 2], [A]."""
    way = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    found = np.concatenate([point + r * way + (np.sign(np.round(way, 9)) - 1) / 2 * size for r in RADII])
    low, high = scene.bounds[:2], scene.bounds[2:] - size
    inside = ((found >= low) & (found <= high)).all(1)
    found = found[inside] if inside.any() else np.clip(found[:1], low, np.maximum(low, high))
    boxes = np.concatenate([found, found + size], 1)
    many = np.tile(point, (len(found), 1))
    leaders = led(many, found, np.tile(size, (len(found), 1)))
    away = np.linalg.norm(ends(many, found, np.tile(size, (len(found), 1))) - point, axis=1)
    middle = found + size / 2 - point
    turn = np.abs(np.arctan2(middle[:, 1], np.abs(middle[:, 0])))  # beside a mark reads better than over it
    cost = FAR * away + SIDE * turn + COVERED * _covered(boxes, scene.boxes).sum(1)
    foreign = scene.boxes[~_holds(scene.boxes, point)]  # its own mark holds every leader's end
    cost += STRUCK * _hit(scene.lines[None], boxes[:, None]).sum(1)
    cost += CROSSED * _crosses(leaders[:, None], scene.lines[None]).sum(1)
    cost += CROSSED * _hit(leaders[:, None], foreign[None]).sum(1)
    kept = np.argsort(cost, kind="stable")[:KEPT]
    return found[kept], cost[kept]


def _between(places: Array, points: Array, sizes: Array) -> Array:
    """What each two places cost together: [A, A]."""
    boxes, leaders = np.concatenate([places, places + sizes], 1), led(points, places, sizes)
    hit = _hit(leaders[:, None], boxes[None])
    struck = _crosses(leaders[:, None], leaders[None]).astype(float) + hit + hit.T
    return COVERED * _covered(boxes, boxes) + STRUCK * struck


def _covered(boxes: Array, others: Array) -> Array:
    """The area that boxes [A, 4] share with others [B, 4], these AIR larger on each side: [A, B]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2] - AIR)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:] + AIR)
    return np.asarray(np.clip(high - low, 0, None).prod(-1))


def _holds(boxes: Array, points: Array) -> NDArray[np.bool_]:
    inside = (boxes[..., :2] <= points) & (points <= boxes[..., 2:])
    return np.asarray(inside.all(-1))


def _crosses(one: Array, two: Array) -> NDArray[np.bool_]:
    """Which segments [..., 4] cross which."""
    a, b, c, d = one[..., :2], one[..., 2:], two[..., :2], two[..., 2:]

    def side(p: Array, q: Array, r: Array) -> Array:
        along, to = q - p, r - p
        return np.asarray(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0])

    apart = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return np.asarray(apart)


def _hit(segments: Array, boxes: Array) -> NDArray[np.bool_]:
    """Which segments [..., 4] go through which boxes [..., 4]: they cross a diagonal, or begin inside."""
    one, two = boxes, boxes[..., [0, 3, 2, 1]]
    inside = _holds(boxes, segments[..., :2]) & (segments[..., :2] != segments[..., 2:]).any(-1)
    return np.asarray(_crosses(segments, one) | _crosses(segments, two) | inside)
