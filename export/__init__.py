"""A torch model becomes a training program (.pte, .onnx) that is checked against autograd."""
