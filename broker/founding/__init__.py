"""A fleet's folder, made once: configuration, certificates, access list, systemd units."""
