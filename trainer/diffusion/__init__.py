"""Flow matching in numbers: where the noise levels lie, how states are noised, and how a trajectory is sampled."""
