"""Prompt sets and the data that goes with them, one folder a world."""
