"""Weights of other libraries and repositories -> a densekit network, with an account of every tensor."""

from densekit.weights.foreign.account import Account
from densekit.weights.foreign.network import Imported, import_network

__all__ = ["Account", "Imported", "import_network"]
