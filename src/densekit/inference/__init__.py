"""Images in, named probabilities out: the classifier, exported files, and what `predict` writes.

Nothing is imported here, so that exported files can be used without torch.
"""
