"""Metrics of one label an image and of several, from one record a sample, with intervals."""
