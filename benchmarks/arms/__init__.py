"""What only `benchmarks.ablations` trains: algorithms and feedback that exist to be compared with."""
