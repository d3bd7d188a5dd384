"""The device: it trains on its own data and keeps its personal layers."""
