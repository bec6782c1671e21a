"""What a trained network does with its connections: the paper's figure 5 and its claims, measured on anybody's model.

Shapes: N images, C channels, k growth rate, L layers in a block. A block has L + 1 sources, what enters it and each
layer's maps, and L + 1 readers: its layers, and the transition or classifier behind it.

Nothing is imported here: who explains one answer need not wait for what trains probes.
"""
