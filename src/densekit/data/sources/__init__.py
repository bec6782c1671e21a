"""Data sources, one file each; `registry` has the table of prefixes."""
