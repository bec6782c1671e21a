"""Networks as files for other runtimes: ONNX, OpenVINO, torch.export and Triton, each proved before it is kept.

Nothing is imported here, so that `densekit.export.runtime` works where there is no torch.
"""
