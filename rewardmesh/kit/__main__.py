"""Serves an oracle from its module: `python -m rewardmesh.kit module:name [--host HOST] [--port PORT]`.

`name` is an Oracle, or a class of one that needs no arguments. The environment variable REWARDMESH_ORACLE_TOKEN, if
set, is the bearer token to ask for; it is no option because the arguments of a process are there for all to read.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from rewardmesh.kit.oracle import Oracle
from rewardmesh.wire.errors import RecipeError, RewardmeshError

_TOKEN = "REWARDMESH_ORACLE_TOKEN"  # noqa: S105 - the name of a variable


def find_oracle(where: str) -> Oracle:
    """The oracle at `module:name`. Raises: RecipeError if there is none."""
    module, _, name = where.partition(":")
    if not module or not name:
        raise RecipeError("no address of an oracle", where, "give module:name")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"oracle cannot be imported: {error}", where, "check the module, the name, and the folder"
        ) from error
    made = found() if isinstance(found, type) and issubclass(found, Oracle) else found
    if not isinstance(made, Oracle):
        raise RecipeError(f"a {type(made).__name__} is no oracle", where, "decorate it, or subclass rewardmesh.Oracle")
    return made


def main() -> int:
    """Serves, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rewardmesh.kit", description="Serves an oracle over HTTP.")
    parser.add_argument("oracle", metavar="module:name")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default %(default)s)")
    parser.add_argument("--port", type=int, default=8800, help="port to listen at (default %(default)s)")
    given = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))
    try:
        served = find_oracle(given.oracle)
    except RewardmeshError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command answers its user
        return 2
    served.serve(host=given.host, port=given.port, token=os.environ.get(_TOKEN))
    return 0


if __name__ == "__main__":
    sys.exit(main())
