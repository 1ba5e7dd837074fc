"""Model families: how a family's networks are loaded, conditioned, run, decoded and saved. One file a family."""
