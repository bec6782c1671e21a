"""What a run did and how good it became, for people: plots, and one HTML file that holds everything it shows."""

from densekit.report.page import write_report

__all__ = ["write_report"]
