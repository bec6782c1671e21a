"""Side by side: one network, one set of weights, one batch, as each plan, library and runtime would run it.

`suite.benchmark` measures, `table.tables` and `chart.write_chart` show. Nothing is imported here, as every measurement
is a process that has to start.
"""
