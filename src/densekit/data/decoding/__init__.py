"""Encoded images, arrays and tensors -> upright 8-bit images."""
