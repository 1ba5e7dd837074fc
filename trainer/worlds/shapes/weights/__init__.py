"""The shipped networks of the shapes world; `trainer/worlds/shapes/README.md` says how they were made."""
