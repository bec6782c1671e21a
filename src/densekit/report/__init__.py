"""What a run did and how good it became, for people: plots, and one HTML file that holds everything it shows.

And the same for what a check of a data set, an analysis of a network, or a study of many runs has found.

Nothing is imported here: who needs a picture of some pixels need not wait for what draws curves.
"""
