"""ONNX models: what they are, which ones a profile uses, how they are asked and differentiated."""
