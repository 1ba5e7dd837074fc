"""What learns: numerics, losses, models, algorithms, worlds, and the loop that joins them to rewards."""
