"""What the index says about one file. Runs in the parsing processes; imports little."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

__all__ = ["FileFacts", "Unreadable", "extract_all", "facts_of_source", "read_facts"]

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    job: int
    """Number of the file's job."""
    digest: str
    """SHA-256 of the file."""
    size_bytes: int = 0
    lines: int = 0
    imports: tuple[str, ...] = ()
    """Names of modules, each once, in order of their first import; relative ones with dots."""
    definitions: tuple[str, ...] = ()
    """Functions and classes by qualified name, in the file's order."""
    error: str | None = None
    """Why the file could not be parsed."""


class Unreadable(msgspec.Struct, frozen=True):
    """There are no facts, this time."""

    error: str


def extract_all(jobs: Sequence[tuple[int, str]]) -> list[FileFacts | Unreadable]:
    """The facts of several files: one call to a process costs about as much as parsing one."""
    return [read_facts(job, path) for job, path in jobs]


def read_facts(job: int, path: str) -> FileFacts | Unreadable:
    """The facts of a file. Whatever is wrong with what is in it is one of them."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return Unreadable(_told(error))
    return facts_of_source(job, data)


def facts_of_source(job: int, data: bytes) -> FileFacts:
    imports: tuple[str, ...] = ()
    definitions: tuple[str, ...] = ()
    error: str | None = None
    try:
        with warnings.catch_warnings():
            # Old escapes and the like in other people's files are not ours to report.
            warnings.simplefilter("ignore")
            tree = ast.parse(data)
        imports = tuple(dict.fromkeys(_imports(tree)))
        definitions = tuple(_definitions(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as failure:
        # Syntax, encoding, null bytes, nesting: the last comes as either of two errors.
        error = _told(failure)
    return FileFacts(
        job=job,
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        lines=data.count(b"\n") + (not data.endswith(b"\n") and bool(data)),
        imports=imports,
        definitions=definitions,
        error=error,
    )


def _statements(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every statement below ``tree`` with the qualified name of where it stands, in order.

    With a stack of its own: files may be nested deeper than calls can be. Expressions are left
    out, where most of the nodes are and neither imports nor definitions.
    """
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, scope = stack.pop()
        yield node, scope
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = f"{scope}{node.name}."
        inner = [child for block in _BLOCKS for child in _children(node, block)]
        stack.extend((child, scope) for child in reversed(inner))


def _children(node: ast.AST, block: str) -> Sequence[ast.AST]:
    # A lambda's body is an expression, not a list.
    children = getattr(node, block, ())
    return children if isinstance(children, list) else ()


def _imports(tree: ast.AST) -> Iterator[str]:
    for node, _ in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def _definitions(tree: ast.AST) -> Iterator[str]:
    for node, scope in _statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield scope + node.name


def _told(error: BaseException) -> str:
    """The error in one line that is valid text, whatever file name or source is in it."""
    text = f"{type(error).__name__}: {error}".replace("\n", " ")
    return text.encode("utf-8", "backslashreplace").decode()
