"""Pages of a web server: rendered once for all who ask, rendered anew when an article changes, and
there again after a restart."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from mpreg.cache import GlobalCacheKey, GlobalCacheManager
from mpreg.persistence import PersistenceConfig, PersistenceRegistry

ARTICLES = {"tea": "Tea is hot.", "ice": "Ice is cold."}


async def render(name: str) -> str:
    print(f"rendering {name}")
    await anyio.sleep(0.05)
    return f"<p>{ARTICLES[name]}</p>"


async def handle(cache: GlobalCacheManager, name: str) -> str:
    article, page = GlobalCacheKey("articles", name), GlobalCacheKey("pages", name)
    html: str = await cache.get_or_compute(
        page, partial(render, name), ttl_seconds=3_600.0, dependencies=[article]
    )
    return html


async def edit(cache: GlobalCacheManager, name: str, text: str) -> None:
    ARTICLES[name] = text
    await cache.invalidate(dependency=GlobalCacheKey("articles", name))


async def main(data_dir: Path) -> None:
    registry = PersistenceRegistry(PersistenceConfig(data_dir=data_dir))
    cache = GlobalCacheManager(registry)
    async with registry:
        async with anyio.create_task_group() as requests:
            for number in range(100):
                requests.start_soon(handle, cache, ("tea", "ice")[number % 2])
        await edit(cache, "tea", "Tea is very hot.")
        print(await handle(cache, "tea"))

    registry = PersistenceRegistry(PersistenceConfig(data_dir=data_dir))  # a restart
    cache = GlobalCacheManager(registry)
    async with registry:
        await cache.wait_until_warm()  # a server need not wait: it reads from the disk meanwhile
        print(await handle(cache, "tea"), await handle(cache, "ice"))
        statistics = cache.statistics()
        print(f"{statistics.memory_hits} hits in memory, {statistics.misses} misses")


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        anyio.run(main, Path(directory))
