"""Which parts of an image an answer rests on: class activation maps."""
