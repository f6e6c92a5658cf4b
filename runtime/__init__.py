"""Serve a model repository; needs neither torch nor onnx."""
