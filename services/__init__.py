"""What answers HTTP: oracles as plain classes, one app for any of them, and their Ray Serve deployments."""
