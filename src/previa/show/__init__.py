"""Pictures from stored results: figures for a paper, and one interactive HTML report."""

from previa.show.contours import contours
from previa.show.histograms import histograms
from previa.show.panels import panels
from previa.show.pareto import pareto
from previa.show.per_task import per_task
from previa.show.quality_cost import quality_cost
from previa.show.report import write_report

__all__ = ["contours", "histograms", "panels", "pareto", "per_task", "quality_cost", "write_report"]
