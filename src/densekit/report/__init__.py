"""What a run did and how good it became, for people: plots, and one HTML file that holds everything it shows.

And the same for what a check of a data set, or an analysis of a network, has found.
"""

from densekit.report.analysis_page import write_analysis
from densekit.report.data_page import write_data_report
from densekit.report.page import write_report

__all__ = ["write_analysis", "write_data_report", "write_report"]
