"""Weights of other libraries and repositories -> a densekit network, with an account of every tensor."""

from densekit.weights.foreign.importer import Imported, import_network
from densekit.weights.foreign.mapping_report import MappingReport

__all__ = ["Imported", "MappingReport", "import_network"]
