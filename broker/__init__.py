"""The MQTT broker of the fleet."""
