"""What a run did and how good it became, for people: plots, and one HTML file that holds everything it shows.

And the same for what a check of a data set, an analysis of a network, or a study of many runs has found.
"""

from densekit.report.analysis_page import write_analysis
from densekit.report.data_page import write_data_report
from densekit.report.page import write_report
from densekit.report.study_page import write_study

__all__ = ["write_analysis", "write_data_report", "write_report", "write_study"]
