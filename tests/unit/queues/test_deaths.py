"""The oldest dead letters, beside looking at all of them."""

from __future__ import annotations

from random import Random

from mpreg.queues.deaths import GONE_MIN, Deaths


def test_the_oldest_are_those_that_died_first_in_whatever_order_they_are_kept() -> None:
    for seed in range(300):
        random = Random(seed)
        dead: dict[str, float] = {}
        deaths = Deaths(dead)
        for number in range(random.randint(1, 60)):
            pick = random.random()
            if pick < 0.6:
                key = str(random.randrange(40))
                dead.pop(key, None)
                dead[key] = float(random.randrange(20))
                deaths.note(key, dead[key])
            elif pick < 0.8 and dead:
                del dead[random.choice(list(dead))]
            assert deaths.oldest() == min(dead.values(), default=None), (seed, number)
            wall = float(random.randrange(20))
            found = deaths.until(wall, 1_000)
            due = {key for key, died_at in dead.items() if died_at <= wall}
            assert set(found) == due
            assert [dead[key] for key in found] == sorted(dead[key] for key in found)
            assert len(deaths.until(wall, 1)) == min(len(due), 1)


def test_those_that_are_gone_are_forgotten() -> None:
    dead: dict[str, float] = {"the oldest": 0.0}
    deaths = Deaths(dead)
    for number in range(10 * GONE_MIN):
        dead[str(number)] = 1.0
        deaths.note(str(number), 1.0)
        del dead[str(number)]
        assert deaths.oldest() == 0.0
        assert len(deaths._heap or ()) <= GONE_MIN + 4
