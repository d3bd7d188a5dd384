"""The engine that trains one client after the other in compiled loops, without torch's operators."""
