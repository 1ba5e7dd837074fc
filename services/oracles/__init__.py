"""Oracles as plain classes: pictures in, rewards out. No Ray, Redis or HTTP in here."""
