"""A reader's desk is the same for the READMEs and for the pages."""

from tests.docs.test_readme import place

__all__ = ["place"]
