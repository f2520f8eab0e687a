"""Models for other software: ONNX and TorchScript files, and folders to publish."""
