"""Reports of runs and of comparisons: one HTML file that opens anywhere, now and in ten years."""

from hydrakit.report.comparison import build_comparison, write_comparison_report
from hydrakit.report.page import build_report, write_report

__all__ = ["build_comparison", "build_report", "write_comparison_report", "write_report"]
