"""Producers and consumers of real queues, killed by SIGKILL again and again, on one directory.

The ledger holds what the program told of all its lives against one another: no acknowledged send
is lost, nothing acknowledged comes again, and what was handed out comes again with its attempt
counted. Nothing is timed: whatever is checked follows from the order of the lines.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from attrs import define, field

from tests.e2e.programs.queues import (
    AGAIN,
    ALARMS,
    CONFIGURATIONS,
    DEFAULT,
    JOBS,
    ODD,
    ORDERS,
    OUTCOMES,
    STEPS,
    UNIQUE,
    VOTES,
    batch_size,
    priority_of,
    split_key,
    subscriptions_of,
    topic_of,
    ttl_of,
)
from tests.e2e.support import Program, on_both_loops

#: On each loop; `make crash` sets more. Another seed gives other moments.
KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "3"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))

LINES_MAX = 3_000

#: A process that is drained has more to do than most.
DRAIN_GUARD_SECONDS = 300.0

#: Where the order is that of the sends, and nobody gives back unseen what he has taken ahead.
ORDERED = (ORDERS, ALARMS, VOTES, STEPS, UNIQUE)

#: Where nothing is given back at all: what comes again keeps its place, too.
STEADY = (ORDERS, UNIQUE)

Place = tuple[str, str, str]
"""(queue, subscription, key): one message as one subscription has it."""


@define(eq=False)
class Acking:
    """An ack of some messages together, of which it was not told what became."""

    places: set[Place]
    life: int
    returned: set[Place] = field(factory=set)
    """Those that came again, in a later life: then it was not done."""


def pairs(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    return zip(words[::2], words[1::2], strict=True)


@define(eq=False, repr=False)
class QueueLedger:
    """What was told in all lives. Raises `AssertionError` at the first line that cannot be."""

    life: int = 1
    lines: int = 0

    ids: dict[tuple[str, str], str] = field(factory=dict)
    """By queue and key, the one message that it is."""
    sent: dict[tuple[str, str], int] = field(factory=dict)
    """Sends that were told, and the line of the first time."""
    numbers: dict[tuple[str, str, int], int] = field(factory=lambda: defaultdict(int))
    """By queue, producer and life, the highest number that was told."""

    attempts: dict[Place, int] = field(factory=dict)
    """Of the last time it was handed out."""
    acked: set[Place] = field(factory=set)
    acking: dict[Place, Acking] = field(factory=dict)
    given_up: set[Place] = field(factory=set)
    """Told to have been given back for the last time."""
    dead: dict[Place, str] = field(factory=dict)
    """What was ever a dead letter, and its message."""
    listed: set[Place] = field(factory=set)
    """The dead letters of the listing that is under way."""
    redriving: set[Place] = field(factory=set)
    redriven: set[Place] = field(factory=set)
    effects: list[str] = field(factory=list)
    final: dict[str, list[int]] = field(factory=dict)
    at_once: int = 0
    """Messages that were in somebody's hands when the process was killed, and came again."""

    asked: dict[tuple[str, str, str], int] = field(factory=dict)
    """By consumer, the line of its last question."""
    highest: dict[tuple[str, ...], tuple[int, int]] = field(factory=dict)
    """By subscription, consumer, producer and priority: its last first delivery in this life."""
    highest_before: dict[tuple[str, ...], tuple[int, int]] = field(factory=dict)
    """By subscription, producer and priority: the same of earlier lives, of all consumers."""
    answered: dict[int, tuple[list[int], list[int]]] = field(
        factory=lambda: {priority: ([], []) for priority in range(4)}
    )
    """By priority: the lines that tell of an alarm, and for each the latest question of any so
    far."""
    in_batch: dict[str, tuple[int, int]] = field(factory=dict)
    """By consumer of alarms: its last question, and the last priority that it got for that."""

    def note(self, line: str) -> None:
        self.lines += 1
        word, *rest = line.split(" ")
        match word, rest:
            case "starting" | "running" | "end", []:
                pass
            case "opened", [queue, *counts]:
                self._opened(queue, *map(int, counts))
            case "final", [queue, *counts]:
                self.final[queue] = [int(count) for count in counts]
            case "sent", [queue, *told]:
                self._sent(queue, list(pairs(told)))
            case "ask", [queue, subscription, consumer]:
                self.asked[queue, subscription, consumer] = self.lines
            case "got", [queue, subscription, consumer, key, id, attempt, priority]:
                self._got((queue, subscription, key), consumer, id, int(attempt), int(priority))
            case "acking", [queue, subscription, *keys]:
                acking = Acking({(queue, subscription, key) for key in keys}, self.life)
                for place in acking.places:
                    assert place not in self.acking, f"{place}: acknowledged twice at a time"
                    self.acking[place] = acking
            case "acked" | "undone", [queue, subscription, *keys]:
                for place in [(queue, subscription, key) for key in keys]:
                    del self.acking[place]
                    if word == "acked":
                        assert place not in self.acked, f"{place}: acknowledged twice"
                        self.acked.add(place)
            case "nacked", [queue, subscription, key]:
                place = (queue, subscription, key)
                if self.attempts[place] >= CONFIGURATIONS[queue].max_deliveries:
                    self.given_up.add(place)
            case "dead" | "died", [queue, key, id, attempts]:
                self._dead(queue, key, id, int(attempts))
                if word == "dead":
                    self.listed.add((queue, DEFAULT, key))
            case "listed", [queue]:
                self._listed(queue)
            case "redriving", [queue, *keys]:
                self.redriving.update((queue, DEFAULT, key) for key in keys)
            case "redriven", [queue, *keys]:
                self.redriven.update((queue, DEFAULT, key) for key in keys)
            case "effect", [key]:
                self.effects.append(key)
            case _:
                raise AssertionError(f"a line that means nothing: {line!r}")

    def end_life(self) -> None:
        """The process is gone."""
        for (queue, subscription, _, *rest), last in self.highest.items():
            who = (queue, subscription, *rest)
            self.highest_before[who] = max(last, self.highest_before.get(who, (0, 0)))
        self.highest.clear()
        self.life += 1

    # --- sends ---

    def _sent(self, queue: str, told: list[tuple[str, str]]) -> None:
        for key, id in told:
            producer, life, number = split_key(key)
            assert queue == UNIQUE or (queue, key) not in self.sent
            self._same_message(queue, key, id)
            self.sent.setdefault((queue, key), self.lines)
            last = self.numbers[queue, producer, life]
            self.numbers[queue, producer, life] = max(number, last)

    def _same_message(self, queue: str, key: str, id: str) -> None:
        known = self.ids.setdefault((queue, key), id)
        assert known == id, f"{queue} {key}: sent twice, as {known} and as {id}"

    def _was_sent(self, queue: str, key: str) -> bool:
        """Whether it was told, or may have been under way."""
        if queue == OUTCOMES:
            step = (STEPS, DEFAULT, key)
            return step in self.acked or step in self.acking
        if queue == AGAIN:
            return (JOBS, DEFAULT, key) in self.redriving
        producer, life, number = split_key(key)
        told = self.numbers[queue, producer, life]
        ahead = batch_size(told + 1) if producer == "batch" else 1
        return life <= self.life and number <= told + ahead

    # --- deliveries ---

    def _got(self, place: Place, consumer: str, id: str, attempt: int, priority: int) -> None:
        queue, subscription, key = place
        assert self._was_sent(queue, key), f"{place}: nobody sent it"
        assert subscription != ODD or topic_of(key).startswith("odd"), f"{place}: of another topic"
        assert priority == priority_of(queue, key), f"{place}: with priority {priority}"
        self._same_message(queue, key, id)
        assert place not in self.acked, f"{place}: acknowledged, and handed out again"
        assert place not in self.dead, f"{place}: dead, and handed out again"
        assert place not in self.given_up, f"{place}: had no attempt left, and was handed out again"
        before = self.attempts.get(place, 0)
        assert attempt > before, f"{place}: attempt {attempt} after attempt {before}"
        assert attempt <= CONFIGURATIONS[queue].max_deliveries, f"{place}: attempt {attempt}"
        if (acking := self.acking.pop(place, None)) is not None:
            assert acking.life < self.life, f"{place}: handed out while it is acknowledged"
            acking.returned.add(place)
            self.at_once += 1
        self.attempts[place] = attempt
        if queue in ORDERED and (attempt == 1 or (consumer == "drain" and queue in STEADY)):
            self._check_order(place, consumer, attempt)
        if queue == ALARMS:
            self._check_priority(key, consumer, attempt, priority)

    def _check_order(self, place: Place, consumer: str, attempt: int) -> None:
        queue, subscription, key = place
        producer, life, number = split_key(key)
        who = (producer, str(priority_of(queue, key)))
        last = self.highest.get((queue, subscription, consumer, *who), (0, 0))
        if attempt == 1:
            last = max(last, self.highest_before.get((queue, subscription, *who), (0, 0)))
        assert (life, number) > last, f"{place}: after {last} of the same producer"
        self.highest[queue, subscription, consumer, *who] = (life, number)

    def _check_priority(self, key: str, consumer: str, attempt: int, priority: int) -> None:
        """What was sent before another consumer asked, and was there to be had after that one was
        answered, would have been the answer if it had the higher priority."""
        asked = self.asked.get((ALARMS, DEFAULT, consumer), 0)
        question, last = self.in_batch.get(consumer, (0, 0))
        assert question != asked or priority <= last, f"{key}: after one of lower priority"
        self.in_batch[consumer] = (asked, priority)
        sent = self.sent.get((ALARMS, key))
        if attempt == 1 and sent is not None:
            for lower in range(priority):
                lines, latest_questions = self.answered[lower]
                count = bisect_left(lines, asked)
                overtaken = count > 0 and latest_questions[count - 1] > sent
                assert not overtaken, f"{key}: one of priority {lower} was preferred to it"
        lines, latest_questions = self.answered[priority]
        lines.append(self.lines)
        latest_questions.append(max(asked, latest_questions[-1] if latest_questions else 0))

    # --- dead letters and counts ---

    def _dead(self, queue: str, key: str, id: str, attempts: int) -> None:
        place = (queue, DEFAULT, key)
        assert self._was_sent(queue, key), f"{place}: dead, and nobody sent it"
        self._same_message(queue, key, id)
        # More where a kill came before it was written that some of them were given back unseen.
        assert attempts >= CONFIGURATIONS[queue].max_deliveries, f"{place}: dead after {attempts}"
        assert place not in self.acked, f"{place}: acknowledged, and dead"
        assert place not in self.redriven, f"{place}: sent on, and still a dead letter"
        if (acking := self.acking.pop(place, None)) is not None:
            acking.returned.add(place)
        self.dead[place] = id

    def _listed(self, queue: str) -> None:
        had = {place for place in (*self.dead, *self.given_up) if place[0] == queue}
        missing = had - self.listed - self.redriving
        assert not missing, f"dead letters are gone: {sorted(missing)}"
        self.listed.clear()

    def _opened(self, queue: str, size: int, in_flight: int, sent: int, acks: int, _: int) -> None:
        assert in_flight == 0, f"{queue}: {in_flight} messages are held by a process that is gone"
        assert sent >= self._count(queue, self.sent), f"{queue}: only {sent} sends are known"
        assert acks >= self._count(queue, self.acked), f"{queue}: only {acks} acks are known"

    @staticmethod
    def _count(queue: str, what: Iterable[tuple[str, ...]]) -> int:
        return sum(place[0] == queue for place in what)

    # --- the end ---

    def check_the_end(self) -> None:
        """Everything was taken: what was sent has ended in one way, and only one."""
        assert set(self.final) == set(CONFIGURATIONS), "it did not come to its end"
        self._check_groups()
        for queue, key in self.ids:
            for subscription in subscriptions_of(queue):
                if subscription != ODD or topic_of(key).startswith("odd"):
                    self._check_ended((queue, subscription, key))
        # An ack that was under way, and of which nothing came again, was done.
        done = self.acked | set(self.acking)
        for queue in CONFIGURATIONS:
            size, in_flight, sent, acks, dead = self.final[queue]
            assert (size, in_flight) == (0, 0), queue
            known, finished = self._count(queue, self.ids), self._count(queue, done)
            if queue == JOBS:
                # One that expires may have been seen by nobody.
                assert known <= sent <= known + 2 * self.life
                assert self._count(queue, self.acked) <= acks <= finished
            else:
                assert (known, finished, 0) == (sent, acks, dead), queue
        self._check_effects(done)
        self._check_redriven()

    def _check_ended(self, place: Place) -> None:
        queue, _, key = place
        if place in self.dead:
            assert place not in self.acked, f"{place}: acknowledged and dead"
        elif ttl_of(queue, key) is None:
            is_acked = place in self.acked or place in self.acking
            assert is_acked, f"{place}: is lost"

    def _check_groups(self) -> None:
        """Together sent, together acknowledged."""
        for acking in {id(acking): acking for acking in self.acking.values()}.values():
            if any(ttl_of(queue, key) is not None for queue, _, key in acking.places):
                continue
            assert not acking.returned, f"half an ack: {acking}"
        batched: dict[int, set[int]] = defaultdict(set)
        for queue, key in self.ids:
            producer, life, number = split_key(key)
            if producer == "batch":
                assert queue == ORDERS
                batched[life].add(number)
        for life, numbers in batched.items():
            told = self.numbers[ORDERS, "batch", life]
            whole = told + batch_size(told + 1)
            assert numbers in ({*range(1, told + 1)}, {*range(1, whole + 1)}), f"half a send {life}"

    def _check_effects(self, done: set[Place]) -> None:
        stepped = sorted(key for queue, _, key in done if queue == STEPS)
        assert stepped == sorted(self.effects), "acknowledged and effect are not one"
        onward = sorted(key for queue, key in self.ids if queue == OUTCOMES)
        assert stepped == onward, "acknowledged and sent on are not one"

    def _check_redriven(self) -> None:
        still_dead = self.final[JOBS][4]
        again = {key: id for (queue, key), id in self.ids.items() if queue == AGAIN}
        died = {key: id for (_, _, key), id in self.dead.items()}
        assert len(died) == still_dead + len(again), "dead letters were lost, or doubled"
        assert all(died[key] == id for key, id in again.items()), "sent on as another message"
        assert {key for _, _, key in self.redriven} <= set(again)


# --- the campaign ---


def follow(program: Program, ledger: QueueLedger, lines: int | None = None) -> None:
    """Note the next so many lines; None: all there are, to the end."""
    for line in itertools.islice(program.lines(), lines):
        ledger.note(line)


def live_and_die(loop: str, data_dir: Path, ledger: QueueLedger, rng: random.Random) -> None:
    # The last few that were told are sent once more, beside the one that may have been under way.
    retried_from = max(1, ledger.numbers[UNIQUE, "unique", 0] - 5)
    hurried = rng.random() < 0.7
    # Hardly any, one time in eight: that kill meets the opening.
    lines = rng.randint(1, 40) if rng.random() < 1 / 8 else rng.randint(40, LINES_MAX)
    arguments = (ledger.life, SEED, int(hurried), retried_from)
    with Program("queues", "work", loop, data_dir, *arguments) as program:
        follow(program, ledger, lines)
        program.send(signal.SIGKILL)
        # What is in the pipe was told before the kill, and counts.
        follow(program, ledger)
        assert program.wait() == -signal.SIGKILL, program.errors
    ledger.end_life()
    if (data_dir / "mpreg.db").exists():
        with closing(sqlite3.connect(f"file:{data_dir}/mpreg.db?mode=ro", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def drain(loop: str, data_dir: Path, ledger: QueueLedger) -> None:
    """One life more, in which everything that is left is taken; and hold it all together."""
    arguments = ("drain", loop, data_dir)
    with Program("queues", *arguments, guard_seconds=DRAIN_GUARD_SECONDS) as program:
        follow(program, ledger)
        assert program.wait() == 0, program.errors
    ledger.check_the_end()


@on_both_loops
def test_queues_keep_their_promises_over_many_kills(loop: str, tmp_path: Path) -> None:
    """Sent is delivered, acknowledged is done, and attempts, order and effects are right."""
    rng = random.Random(f"queues {SEED} {loop}")
    ledger = QueueLedger()
    for _ in range(KILLS):
        live_and_die(loop, tmp_path / "data", ledger, rng)
    drain(loop, tmp_path / "data", ledger)
    print(  # shown by pytest -rP
        f"{KILLS} kills, {len(ledger.sent):,} sends and {len(ledger.acked):,} acks told, "
        f"{len(ledger.dead)} dead letters, {ledger.at_once} acks undone by a kill, seed {SEED}"
    )


# --- the check itself ---


def tell(story: str) -> QueueLedger:
    """Lines with a semicolon between them; a kill is one, too."""
    ledger = QueueLedger()
    for line in story.split("; ") if story else ():
        if line == "kill":
            ledger.end_life()
        else:
            ledger.note(line)
    return ledger


SENT = "sent orders p/1/1 a; sent orders p/1/2 b"
GOT = f"{SENT}; got orders default many p/1/1 a 1 0"
ACKED = f"{GOT}; acking orders default p/1/1; acked orders default p/1/1"
ALARM = "sent alarms p/1/2 a; sent alarms p/1/1 b; ask alarms default many"
ALARM_TAKEN = f"{ALARM}; got alarms default many p/1/2 a 1 0"
LAST_JOB = "sent jobs p/1/1 a; got jobs default many p/1/1 a 4 0"
DEAD = "sent jobs p/1/1 a; dead jobs p/1/1 a 4; listed jobs"
REDRIVEN = (
    f"{DEAD}; redriving jobs p/1/1; redriven jobs p/1/1; got again default many p/1/1 a 1 0; "
    "acking again default p/1/1; acked again default p/1/1"
)


@pytest.mark.parametrize(
    ("story", "complaint"),
    [
        (f"{SENT}; got orders default many p/1/4 d 1 0", "nobody sent it"),
        ("got outcomes default many p/1/1 a 1 0", "nobody sent it"),
        (f"{DEAD}; got again default many p/1/1 a 1 0", "nobody sent it"),
        ("sent unique unique/0/1 a; sent unique unique/0/1 b", "sent twice"),
        (f"{SENT}; got orders default many p/1/1 c 1 0", "sent twice"),
        (f"{SENT}; got orders odd many p/1/2 b 1 0", "of another topic"),
        (f"{ALARM}; got alarms default many p/1/2 a 1 3", "with priority 3"),
        (f"{ACKED}; got orders default many p/1/1 a 2 0", "acknowledged, and handed out again"),
        (f"{ACKED}; kill; got orders default many p/1/1 a 2 0", "acknowledged, and handed out"),
        (f"{GOT}; kill; got orders default many p/1/1 a 1 0", "attempt 1 after attempt 1"),
        (
            f"{GOT}; acking orders default p/1/1; got orders default many p/1/1 a 2 0",
            "handed out while it is acknowledged",
        ),
        (
            f"{SENT}; got orders default many p/1/2 b 1 0; got orders default many p/1/1 a 1 0",
            "of the same producer",
        ),
        (
            f"{SENT}; got orders default a p/1/2 b 1 0; kill; got orders default b p/1/1 a 1 0",
            "of the same producer",
        ),
        (
            f"{ALARM_TAKEN}; ask alarms default a; got alarms default a p/1/1 b 1 2",
            "was preferred to it",
        ),
        (
            f"{ALARM_TAKEN}; got alarms default many p/1/1 b 1 2",
            "after one of lower priority",
        ),
        ("sent jobs p/1/1 a; got jobs default many p/1/1 a 5 0", "attempt 5"),
        (f"{LAST_JOB}; nacked jobs default p/1/1; kill; listed jobs", "dead letters are gone"),
        (f"{LAST_JOB}; dead jobs p/1/1 a 3", "dead after 3"),
        (f"{DEAD}; kill; listed jobs", "dead letters are gone"),
        (f"{DEAD}; kill; got jobs default many p/1/1 a 4 0", "dead, and handed out again"),
        (f"{REDRIVEN}; dead jobs p/1/1 a 4", "still a dead letter"),
        ("opened orders 3 1 3 0 0", "held by a process that is gone"),
        (f"{SENT}; kill; opened orders 1 0 1 0 0", "only 1 sends"),
        (f"{ACKED}; kill; opened orders 2 0 2 0 0", "only 0 acks"),
    ],
)
def test_the_ledger_refuses_what_cannot_be(story: str, complaint: str) -> None:
    """A check that finds nothing proves something only if it would have found it."""
    with pytest.raises(AssertionError, match=complaint):
        tell(story)


def ending(**counts: tuple[int, int, int]) -> str:
    """The last statistics: of the queues named sent, acknowledged and dead, of the others none."""
    lines = []
    for queue in CONFIGURATIONS:
        sent, acknowledged, dead = counts.get(queue, (0, 0, 0))
        lines.append(f"final {queue} 0 0 {sent} {acknowledged} {dead}")
    return "; ".join(lines)


STEPPED = (
    "sent steps p/1/1 a; got steps default one p/1/1 a 1 0; acking steps default p/1/1; "
    "acked steps default p/1/1"
)
SENT_ON = (
    f"{STEPPED}; got outcomes default many p/1/1 b 1 0; acking outcomes default p/1/1; "
    "acked outcomes default p/1/1"
)
TWO_ACKING = (
    "sent unique unique/0/1 a; sent unique unique/0/2 b; got unique default many unique/0/1 a 1 0; "
    "got unique default many unique/0/2 b 1 0; acking unique default unique/0/1 unique/0/2; kill"
)
ONE_AGAIN = (
    "got unique default many unique/0/1 a 2 0; acking unique default unique/0/1; "
    "acked unique default unique/0/1"
)


@pytest.mark.parametrize(
    "story",
    [
        ending(),
        f"{SENT_ON}; effect p/1/1; {ending(steps=(1, 1, 0), outcomes=(1, 1, 0))}",
        # Killed before it was told; nothing came again, so it was done.
        f"{TWO_ACKING}; {ending(unique=(2, 2, 0))}",
        f"{DEAD}; {ending(jobs=(1, 0, 1))}",
        f"{REDRIVEN}; {ending(jobs=(1, 0, 0), again=(1, 1, 0))}",
        f"sent jobs p/1/7 a; {ending(jobs=(1, 0, 0))}",
    ],
)
def test_the_ledger_takes_what_can_be(story: str) -> None:
    tell(story).check_the_end()


@pytest.mark.parametrize(
    ("story", "complaint"),
    [
        ("", "did not come to its end"),
        (f"{GOT}; {ending(orders=(2, 0, 0))}", "is lost"),
        (f"{LAST_JOB}; {ending(jobs=(1, 0, 0))}", "is lost"),
        (f"{TWO_ACKING}; {ONE_AGAIN}; {ending(unique=(2, 2, 0))}", "half an ack"),
        (f"got orders default many batch/1/1 a 1 0; {ending(orders=(1, 0, 0))}", "half a send"),
        (ending(votes=(0, 1, 0)), "votes"),
        (ending(alarms=(1, 0, 0)), "alarms"),
        (f"{SENT_ON}; {ending(steps=(1, 1, 0), outcomes=(1, 1, 0))}", "effect are not one"),
        (f"{STEPPED}; effect p/1/1; {ending(steps=(1, 1, 0))}", "sent on"),
        (f"{DEAD}; {ending(jobs=(1, 0, 0))}", "lost, or doubled"),
        (f"{REDRIVEN}; {ending(jobs=(1, 0, 1), again=(1, 1, 0))}", "lost, or doubled"),
    ],
)
def test_the_ledger_refuses_an_end_that_cannot_be(story: str, complaint: str) -> None:
    ledger = tell(story)
    with pytest.raises(AssertionError, match=complaint):
        ledger.check_the_end()
