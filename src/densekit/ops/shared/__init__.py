"""The `shared` plan: a dense block that normalises each feature map once.

In training, the batch mean and variance of a map are the same for every layer that reads it; layers differ in gamma and
beta alone. So the block keeps one matrix of normalised maps, layer l reads relu(gamma_l * x + beta_l), and backward
adds up what all readers want of a normalised map before ONE batch norm backward turns it into the map's gradient.
Nothing is concatenated: the matrix is made once, NHWC, and each layer writes k more columns. Saved for backward: that
matrix and each bottleneck's output, O(L) maps where the plain form saves O(L^2). The batch norm of the epilogue behind
the block (a transition's, or the network's last) is one more reader, so that the raw maps are not kept at all.

In evaluation every reader normalises by its own running statistics; the matrix then holds the raw maps, and the rest is
the same. `forward` and `backward` are the two passes, `node` is autograd's view of them, `second_order` differentiates
the gradients again.
"""

from densekit.ops.shared.node import run
from densekit.ops.shared.spec import Epilogue, Layer

__all__ = ["Epilogue", "Layer", "run"]
