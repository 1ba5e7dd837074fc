"""What a stranger imports to write an oracle: `rewardmesh.kit.oracle`."""
