"""What a trained network does with its connections: the paper's figure 5 and its claims, measured on anybody's model.

Shapes: N images, C channels, k growth rate, L layers in a block. A block has L + 1 sources, what enters it and each
layer's maps, and L + 1 readers: its layers, and the transition or classifier behind it.
"""

from densekit.analysis.analysis import affordable, run
from densekit.analysis.findings import PARTS, Analysis, Network, Request, as_dict

__all__ = ["PARTS", "Analysis", "Network", "Request", "affordable", "as_dict", "run"]
