"""Durable state for async servers: one directory, one writer, an ack that tells the truth."""

__all__ = ["__version__"]

__version__ = "0.1.0"
