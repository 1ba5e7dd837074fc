"""The shapes world: coloured shapes and short words, small enough to pre-train and post-train on two CPU cores."""
