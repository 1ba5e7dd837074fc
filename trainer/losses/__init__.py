"""Losses, one file each: pure functions of tensors. Networks are run by the caller, which passes their velocities."""
