"""HTTP around a classifier: `densekit serve`. Needs the extra `serve`; nothing is imported here."""
