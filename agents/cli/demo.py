"""`marketprism demo`: a generated market day through everything."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from agents.cli.output import echo_json, json_option, print_table, run
from agents.cli.replay_bar import replay_bar
from models.errors import MarketPrismError
from streams.days.day import Day
from streams.days.run import RunReport, run_days
from streams.services.ports import free_ports
from streams.services.temporary import temporary_site
from streams.settings import Settings, load_settings

SAMPLE = Path("replay_data/sample-day")


@click.command()
@click.argument("paths", metavar="[DAY]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=60, show_default=True, help="Times real.")
@json_option
def demo(paths: tuple[Path, ...], speed: float, as_json: bool) -> None:
    """Replay a market day through Kafka, a worker with RocksDB, Redis and a reader; compare all copies at the end.

    Everything runs on services of its own, on free ports and in a folder that is gone afterwards. Without DAY it is the
    generated sample day.

    \b
    Examples:
      marketprism demo
      marketprism demo days/btc --speed 20
    """
    days = [Day.open(path) for path in paths or (SAMPLE,)]
    console = Console(stderr=True, quiet=as_json)
    with tempfile.TemporaryDirectory(prefix="marketprism-demo-") as folder:
        console.print("Starting Kafka and Redis ...")
        with temporary_site(Path(folder) / "site", say=lambda text: console.print(text, highlight=False)) as site:
            settings = _on(load_settings(), site.bootstrap, site.redis_url, Path(folder))
            console.print(f"Replaying {', '.join(day.name for day in days)} at {speed:g}x through a worker ...")
            with replay_bar(quiet=as_json) as progress:
                report = run(run_days(days, settings, Path(folder) / "worker.log", speed=speed, progress=progress))
    echo_json(_figures(report)) if as_json else _show(report, [str(path) for path in paths])
    if not report.ok:
        raise MarketPrismError(f"copies disagree with the day: {report.redis_differences[:5] or report.served_digest}")


def _on(settings: Settings, bootstrap: str, redis_url: str, folder: Path) -> Settings:
    return replace(
        settings,
        kafka=replace(settings.kafka, bootstrap=bootstrap),
        redis=replace(settings.redis, url=redis_url),
        worker=replace(settings.worker, data_dir=str(folder / "worker"), port=free_ports(1)[0]),
    )


def _figures(report: RunReport) -> dict[str, object]:
    sent, heard = report.replay, report.heard
    p50, p99 = heard.percentiles_ms(50, 99)
    return {
        "ticks": sent.rows,
        "frames": sent.frames,
        "seconds": sent.seconds,
        "ticks_per_s": sent.rows_per_s,
        "publish_visible_p50_ms": p50,
        "publish_visible_p99_ms": p99,
        "keys_rocksdb": report.keys_rocksdb,
        "keys_redis": report.keys_redis,
        "invalidations": heard.records,
        "keys_named": heard.n_keys,
        "gaps": heard.gaps,
        "dead_letters": report.dead_letters,
        "digest": sent.digest,
        "digest_ok": report.digest_ok,
        "redis_differences": report.redis_differences,
    }


def _show(report: RunReport, own: list[str]) -> None:
    sent, heard = report.replay, report.heard
    p50, p99 = heard.percentiles_ms(50, 99)
    rows = [
        ("ticks in", f"{sent.rows:,}"),
        ("frames on Kafka", f"{sent.frames:,}"),
        ("ticks/s", f"{sent.rows_per_s:,.0f}"),
        ("due to visible in the reader, p50 / p99", f"{p50:.1f} / {p99:.1f} ms"),
        ("keys in RocksDB / in Redis", f"{report.keys_rocksdb:,} / {report.keys_redis:,}"),
        ("invalidations heard (keys named)", f"{heard.records:,} ({heard.n_keys:,})"),
        ("gaps", heard.gaps),
        ("dead letters", report.dead_letters),
        ("RocksDB holds the day's last state", "yes" if report.digest_ok else "NO"),
        ("Redis holds the same", "yes" if not report.redis_differences else f"NO: {report.redis_differences[:3]}"),
        ("digest", (sent.digest or "")[:16]),
    ]
    print_table("One market day, every copy compared", ["", "#"], rows)
    if not own:
        click.echo(
            "With your own data:\n"
            "  marketprism day import --from binance captures/*.gz --out days/mine   (or --from lean)\n"
            "  marketprism demo days/mine --speed 20\n"
            "To keep it running: marketprism up, then marketprism worker, then marketprism publish ticks.ndjson"
        )
