"""`densekit evaluate`: a model's metrics on a data set, its report and its predictions."""
