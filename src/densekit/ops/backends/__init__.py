"""Implementations of the primitives that plans are made of: torch's operators, and compiled kernels."""
