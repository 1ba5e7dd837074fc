"""`python -m reward_workers`: one worker, settings from the environment."""

from __future__ import annotations

import sys

from reward_workers.process import main

if __name__ == "__main__":
    sys.exit(main())
