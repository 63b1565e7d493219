"""A node: persistence, queues and cache of one directory, asked over HTTP."""

from mpreg.server.node import run_node

__all__ = ["run_node"]
