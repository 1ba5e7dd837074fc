"""What is measured. Each module runs as `python -m benchmarks.NAME [--json FILE]` and prints a table."""
