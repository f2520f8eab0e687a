"""The report of a finished run: one HTML file that opens anywhere, now and in ten years."""

from hydrakit.report.page import write_report

__all__ = ["write_report"]
