"""Algorithms: what one update of each network is. Plain torch; they know no Ray, no server and no oracle."""
