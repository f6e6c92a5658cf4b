"""TensorRT engines out of proved ONNX versions."""
