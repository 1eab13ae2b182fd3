"""Pictures from stored results: figures for a paper, and one interactive HTML report."""

from previa.show.contours import contours
from previa.show.disagreement_map import disagreement_map
from previa.show.histograms import histograms
from previa.show.panels import panels
from previa.show.parallel import parallel
from previa.show.pareto import pareto
from previa.show.per_task import per_task
from previa.show.quality_cost import quality_cost
from previa.show.report import write_report
from previa.show.slices import slices
from previa.show.surrogate_map import surrogate_map
from previa.show.what_if import what_if

__all__ = [
    "contours", "disagreement_map", "histograms", "panels", "parallel", "pareto", "per_task", "quality_cost", "slices",
    "surrogate_map", "what_if", "write_report",
]  # fmt: skip
