"""ExecuTorch without torch: a small C interface, compiled on the device, over the libraries that executorch's wheel ships."""
