"""ONNX."""
from graph.onnx.loading import describe, load
