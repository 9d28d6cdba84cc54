"""`marketprism dead`: refused records, and sending them again."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from agents.cli.output import echo_json, json_option, print_table, run
from streams.kafka.deadletter import DeadLetter, DeadLetters, Resubmission
from streams.settings import Settings, load_settings


@click.group(invoke_without_command=True)
@click.option("--reason", help="Only letters refused for this reason, such as bad_number.")
@click.option("--max", "max_n", type=click.IntRange(1), default=1000, show_default=True, help="Newest letters to list.")
@json_option
@click.pass_context
def dead(ctx: click.Context, reason: str | None, max_n: int, as_json: bool) -> None:
    """List refused records that were not sent again yet: reason, origin, content.

    The content is in --json. `letter` is a letter's own number; topic, partition and offset say where the record came
    from (`-` and -1: it never was in a topic). `count` counts all of them, also those beyond --max.

    \b
    Examples:
      marketprism dead --reason bad_number
      marketprism dead --json
      marketprism dead resubmit --reason unknown_instrument
    """
    if ctx.invoked_subcommand is not None:
        return
    count, letters = run(_list(load_settings(), reason, max_n))
    if as_json:
        echo_json({"count": count, "letters": [_as_json(letter) for letter in letters]})
        return
    print_table(
        f"{count} dead letters" + (f", the newest {len(letters)}" if len(letters) < count else ""),
        ["#letter", "reason", "origin", "refused at", "detail"],
        [(i.letter, i.reason, _origin(i), _time(i.ts_ms), i.detail) for i in letters],
    )


@dead.command()
@click.option("--reason", help="Only letters refused for this reason.")
@click.option("--offset", type=click.IntRange(0), help="Only the letter of this number (column `letter`).")
@json_option
def resubmit(reason: str | None, offset: int | None, as_json: bool) -> None:
    """Send refused records to the topic they came from once more; none is sent twice.

    Worth it once the cause is gone, say after an instrument was defined. What is refused again is a new letter.

    \b
    Examples:
      marketprism dead resubmit --reason unknown_instrument
      marketprism dead resubmit --offset 17
    """
    done = run(_resubmit(load_settings(), reason, offset))
    if as_json:
        echo_json({"resubmitted": done.sent, "unfit": done.unfit})
        return
    click.echo(f"{done.sent} sent again")
    if done.unfit:
        click.echo(f"{done.unfit} cannot be: they are no JSON ticks and no cache writes; mend and publish them")


async def _list(settings: Settings, reason: str | None, max_n: int) -> tuple[int, list[DeadLetter]]:
    async with DeadLetters(settings) as letters:
        return await letters.waiting(reason=reason, max_n=max_n)


async def _resubmit(settings: Settings, reason: str | None, offset: int | None) -> Resubmission:
    async with DeadLetters(settings) as letters:
        return await letters.resubmit(reason=reason, letter=offset)


def _as_json(letter: DeadLetter) -> dict[str, object]:
    return {
        "letter": letter.letter,
        "reason": letter.reason,
        "detail": letter.detail,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "ts_ms": letter.ts_ms,
        "value": letter.value.decode(errors="replace"),
    }


def _origin(letter: DeadLetter) -> str:
    return letter.topic if letter.offset < 0 else f"{letter.topic}/{letter.partition}@{letter.offset}"


def _time(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if ts_ms >= 0 else "-"
