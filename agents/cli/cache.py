"""`get`, `put`, `watch`: one key from the command line."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import click
import msgspec
import orjson

from agents.cli.output import echo_json, json_option, run
from models.errors import MarketPrismError
from streams.client.reader import Entry, MarketCache
from streams.settings import load_settings


@click.command()
@click.argument("key")
@json_option
def get(key: str, as_json: bool) -> None:
    """Read a key: from Redis, with a proof of its age.

    Example: marketprism get md:binance.spot.BTC-USDT:quote --json
    """

    async def look() -> Entry | None:
        async with MarketCache(load_settings(), follow=False) as cache:
            return await cache.get(key)

    entry = run(look())
    if entry is None:
        raise MarketPrismError(f"{key}: there is no such entry")
    _print(key, entry, as_json=as_json)


@click.command()
@click.argument("key")
@click.argument("value")
@click.option("--ttl-ms", type=click.IntRange(min=1), help="Life in milliseconds; without it the entry stays.")
@click.option("--tag", "tags", multiple=True, help="Tag; may be given up to 16 times, and needs --ttl-ms.")
@json_option
def put(key: str, value: str, ttl_ms: int | None, tags: tuple[str, ...], as_json: bool) -> None:
    """Write a generic key. VALUE is JSON if it can be read as such, else text.

    Example: marketprism put session:42 '{"user": 7}' --ttl-ms 60000 --tag user:7
    """

    async def write() -> int:
        async with MarketCache(load_settings(), follow=False) as cache:
            return await cache.put(key, _parsed(value), ttl_ms=ttl_ms, tags=tags)

    version = run(write())
    if as_json:
        echo_json({"key": key, "version": version})
    else:
        click.echo(version)


@click.command()
@click.argument("key")
@click.option("--max", "n_max", type=click.IntRange(min=1), help="Stop after this many lines.")
@json_option
def watch(key: str, n_max: int | None, as_json: bool) -> None:
    """Print a key now and each time it changes; a key that goes away prints a null value.

    Example: marketprism watch md:binance.spot.BTC-USDT:trade --json --max 10
    """

    async def follow() -> None:
        n_left = n_max
        async with MarketCache(load_settings()) as cache, aclosing(cache.watch(key)) as entries:
            async for entry in entries:
                _print(key, entry, as_json=as_json)
                if n_left is not None:
                    n_left -= 1
                    if n_left == 0:
                        return

    run(follow())


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _shown(key: str, entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        return {"key": key, "version": None, "source_offset": None, "tier": None, "age_ms": None, "value": None}
    shown: dict[str, Any] = msgspec.structs.asdict(entry)
    del shown["expires_at_ms"]  # a part of the library's answer, not of the command's
    return shown | {"value": msgspec.to_builtins(entry.value)}  # bytes become base64, which JSON can hold


def _print(key: str, entry: Entry | None, *, as_json: bool) -> None:
    if as_json:
        echo_json(_shown(key, entry))
        return
    if entry is None:
        click.echo(f"{key}  gone")
        return
    age = "age not proven" if entry.age_ms is None else f"at most {entry.age_ms:.0f} ms old"
    click.echo(f"{key}  version {entry.version}  {entry.tier}, {age}")
    click.echo(orjson.dumps(_shown(key, entry)["value"], option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
