"""All that crosses a process boundary: messages, tensors, sketches, topics and the MQTT link."""
