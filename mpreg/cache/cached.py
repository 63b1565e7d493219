"""`cached`: a function whose results are cached."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Generic, ParamSpec, TypeVar

from mpreg.cache.configuration import WriteMode
from mpreg.cache.keys import GlobalCacheKey, KeyPart, check_namespace
from mpreg.cache.manager import GlobalCacheManager
from mpreg.cache.requests import Details, check_choices, check_negative_ttl
from mpreg.codec import KEY_BYTES_MAX, encode_value
from mpreg.errors import ConfigurationError, InvalidArgumentError

__all__ = ["CachedFunction", "cached"]

P = ParamSpec("P")
R = TypeVar("R")


class CachedFunction(Generic[P, R]):
    """What `cached` makes of a function: called as it is.

    Of a method as well, whose ``key=`` gets the object, too: an object is seldom part of a key.
    There ``key`` and ``invalidate`` are those of the class, and take the object first.
    """

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        cache: GlobalCacheManager | Callable[[], GlobalCacheManager],
        namespace: str,
        make_key: Callable[..., KeyPart | tuple[KeyPart, ...]] | None,
        options: dict[str, Any],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._cache = cache
        self._namespace = namespace
        self._make_key = make_key
        self._options = options
        self._signature = inspect.signature(function)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        compute = functools.partial(self._function, *args, **kwargs)
        result: R = await self.cache.get_or_compute(
            self.key(*args, **kwargs), compute, **self._options
        )
        return result

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    @property
    def cache(self) -> GlobalCacheManager:
        if isinstance(self._cache, GlobalCacheManager):
            return self._cache
        return self._cache()

    def key(self, *args: P.args, **kwargs: P.kwargs) -> GlobalCacheKey:
        """Under what the result of a call with these arguments is cached.

        Raises:
            InvalidArgumentError: an argument that can be no part of a key; give ``key=`` then.
            TypeError: the function does not take such arguments.
        """
        if self._make_key is not None:
            made = self._make_key(*args, **kwargs)
            return GlobalCacheKey(self._namespace, *(made if isinstance(made, tuple) else (made,)))
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # However they were given, the same arguments are the same key.
        arguments = [_plain(value) for value in bound.arguments.values()]
        try:
            return GlobalCacheKey(self._namespace, encode_value(arguments, KEY_BYTES_MAX))
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"the arguments of {_name_of(self._function)} make no key: {error}; "
                "say with key= what they are to be told apart by"
            ) from error

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result of a call with these arguments. True if there was one."""
        return await self.cache.delete(self.key(*args, **kwargs))


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


_LIST: Final = 0
_TUPLE: Final = 1


def _plain(value: object) -> object:
    """Equal arguments as equal bytes, and others as others: a dict in one order, and lists and
    tuples, as ``*args`` are, with what they are before their items. What derives from these is
    refused when it is encoded: a function may tell it apart."""
    kind = type(value)
    if isinstance(value, dict) and kind is dict:
        # What has keys of other types is refused when it is encoded, and told by name.
        return {key: _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple) and (kind is list or kind is tuple):
        return [_LIST if kind is list else _TUPLE, *map(_plain, value)]
    return value


def cached(
    cache: GlobalCacheManager | Callable[[], GlobalCacheManager],
    *,
    namespace: str,
    key: Callable[..., KeyPart | tuple[KeyPart, ...]] | None = None,
    ttl_seconds: float | None = None,
    stale_seconds: float = 0.0,
    negative_ttl_seconds: float | None = None,
    tags: Iterable[str] = (),
    cost: float | None = None,
    mode: WriteMode | None = None,
) -> Callable[[Callable[P, Awaitable[R]]], CachedFunction[P, R]]:
    """Cache the results of an async function by its arguments: see
    `GlobalCacheManager.get_or_compute`.

    ``cache`` is one, or a function that gives it when it is called: for modules that are imported
    before there is one. ``key`` makes parts of a key out of the arguments, where they cannot be
    part of one, or not all of them count. What comes out also has ``key(...)`` and
    ``invalidate(...)``: see `CachedFunction`.

    Raises:
        ConfigurationError: the function is not async.
        InvalidArgumentError, ValueTooLargeError: as `GlobalCacheManager.get_or_compute`, but at
            once.
    """
    check_namespace(namespace)
    details = Details(
        ttl_seconds=ttl_seconds, stale_seconds=stale_seconds, tags=tags, cost=cost or 0.0
    )
    check_negative_ttl(negative_ttl_seconds)
    check_choices(mode, None)
    options = {
        "ttl_seconds": ttl_seconds,
        "stale_seconds": stale_seconds,
        "negative_ttl_seconds": negative_ttl_seconds,
        "tags": details.checked_tags,
        "cost": cost,
        "mode": mode,
    }

    def decorate(function: Callable[P, Awaitable[R]]) -> CachedFunction[P, R]:
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"cached is for async functions; {function!r} is none")
        return CachedFunction(function, cache, namespace, key, options)

    return decorate
