"""HTML reports of runs and comparisons, each a single self-contained file."""

from hydrakit.report.comparison import build_comparison, write_comparison_report
from hydrakit.report.page import build_report, write_report

__all__ = ["build_comparison", "build_report", "write_comparison_report", "write_report"]
