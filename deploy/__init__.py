"""How the parts are put together: the local stack, the command line, compose. The only package that knows them all."""

from __future__ import annotations
