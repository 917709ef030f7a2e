"""Puzzles that need search: each has exactly one solution, which was counted when it was made.

user       Seven people stand in a row. … Give their names from left to right.
assistant  python(code="from itertools import permutations\\n…")
tool       Ida, Otto, Vera, Nils, Ada, Hugo, Rosa
assistant  \\boxed{Ida, Otto, Vera, Nils, Ada, Hugo, Rosa}
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations, permutations

from envs.interpreter.notebook_problem import Problem, by_level, kind, solver
from envs.words import FIRST_NAMES

_LETTERS = "ABDEGHKLMNOPRSTUVWY"


@kind("puzzle")
def people_in_a_row(rng: random.Random, level: int) -> Problem:
    """An order that a set of clues leaves as the only one."""
    size = by_level(level, 5, 6, 7, 8)
    names = sorted(rng.sample(FIRST_NAMES, size))
    hidden = rng.sample(names, size)
    at = {name: i for i, name in enumerate(hidden)}
    orders = [{name: i for i, name in enumerate(order)} for order in permutations(names)]
    clues: list[tuple[str, str]] = []  # English, Python over the positions p
    while len(orders) > 1:
        a, b, c = rng.sample(names, 3)
        pool = [
            (f"{a} stands somewhere to the left of {b}", f"p[{a!r}] < p[{b!r}]"),
            (f"{a} and {b} stand side by side", f"abs(p[{a!r}] - p[{b!r}]) == 1"),
            (f"{a} and {b} do not stand side by side", f"abs(p[{a!r}] - p[{b!r}]) != 1"),
            (
                f"{a} stands somewhere between {b} and {c}",
                f"min(p[{b!r}], p[{c!r}]) < p[{a!r}] < max(p[{b!r}], p[{c!r}])",
            ),
            (
                f"exactly {abs(at[a] - at[b]) - 1} people stand between {a} and {b}",
                f"abs(p[{a!r}] - p[{b!r}]) == {abs(at[a] - at[b])}",
            ),
            (f"{a} does not stand at either end", f"0 < p[{a!r}] < {size - 1}"),
        ]
        english, code = rng.choice(pool)
        test: Callable[[dict[str, int]], bool] = eval(f"lambda p: {code}")  # our own text of two lines above
        if not test(at) or (english, code) in clues:
            continue
        left = [order for order in orders if test(order)]
        if len(left) < len(orders):
            orders = left
            clues.append((english, code))
    question = (
        f"{size} people stand in a row: {', '.join(names)}. "
        + " ".join(f"{english}." for english, _ in clues)
        + " Give their names from "
        "left to right, as a comma-separated list."
    )
    program = solver(
        f"""
        from itertools import permutations
        for order in permutations(names):
            p = {{name: i for i, name in enumerate(order)}}
            if {" and ".join(f"({code})" for _, code in clues)}:
                print(", ".join(order))
        """,
        names=names,
    )
    return Problem(question, hidden, program, len(list(permutations(range(size)))))


@kind("puzzle")
def liars(rng: random.Random, level: int) -> Problem:
    """Knights and knaves with statements about pairs and counts; the set of liars is unique."""
    size = by_level(level, 6, 8, 10, 12)
    names = sorted(rng.sample(FIRST_NAMES, size))
    while True:
        honest = [rng.random() < 0.5 for _ in names]
        if not 2 <= sum(honest) <= size - 2:
            continue
        statements = []
        for speaker in range(size):
            for _ in range(2):
                one, two = rng.sample([i for i in range(size) if i != speaker], 2)
                k = rng.randint(2, size - 2)
                pool = [
                    (
                        f"{names[one]} and {names[two]} are of the same kind",
                        f"t[{one}] == t[{two}]",
                        honest[one] == honest[two],
                    ),
                    (
                        f"at least one of {names[one]} and {names[two]} is a liar",
                        f"not (t[{one}] and t[{two}])",
                        not (honest[one] and honest[two]),
                    ),
                    (
                        f"{names[one]} is a liar or {names[two]} is honest",
                        f"(not t[{one}] or t[{two}])",
                        not honest[one] or honest[two],
                    ),
                    (f"exactly {k} of us are honest", f"sum(t) == {k}", sum(honest) == k),
                ]
                fitting = [(english, code) for english, code, true in pool if true == honest[speaker]]
                if fitting:
                    statements.append((speaker, *rng.choice(fitting)))
        check = " and ".join(f"(t[{s}] == ({code}))" for s, _, code in statements)
        fits = eval(f"lambda t: {check}")  # our own text of a few lines above
        solutions = [t for bits in range(2**size) if fits(t := tuple(bool(bits >> i & 1) for i in range(size)))]
        if len(solutions) == 1:
            break
    said = " ".join(f'{names[s]} says: "{english}."' for s, english, _ in statements)
    question = (
        f"Of {', '.join(names)} each is either honest (all that they say is true) or a liar (all that they say is "
        f"false). {said} "
        "Who are the liars? Answer with a comma-separated list of their names in alphabetical order."
    )
    program = solver(
        f"""
        from itertools import product
        for t in product([False, True], repeat=len(names)):
            if {check}:
                print(", ".join(n for n, true in zip(names, t) if not true))
        """,
        names=names,
    )
    return Problem(question, [n for n, true in zip(names, honest, strict=True) if not true], program, 2**size)


def _letter_sums(words: Sequence[str], most: int) -> list[dict[str, int]]:
    """Solutions (``most`` at most) of words[0] + … = words[-1], column by column from the right."""
    *parts, total = words
    leading = {w[0] for w in words}
    columns = []
    for i in range(1, len(total) + 1):
        columns.append(([w[-i] for w in parts if len(w) >= i], total[-i]))
    found: list[dict[str, int]] = []

    def column(index: int, carry: int, values: dict[str, int]) -> None:
        if len(found) >= most:
            return
        if index == len(columns):
            if carry == 0:
                found.append(dict(values))
            return
        letters, out = columns[index]
        free = [x for x in dict.fromkeys(letters) if x not in values]
        used = set(values.values())
        for digits in permutations([d for d in range(10) if d not in used], len(free)):
            trial = {**values, **dict(zip(free, digits, strict=True))}
            if any(trial.get(x) == 0 for x in leading):
                continue
            value = sum(trial[x] for x in letters) + carry
            digit = value % 10
            if trial.get(out, digit) != digit or (out not in trial and digit in trial.values()):
                continue
            if digit == 0 and out in leading:
                continue
            column(index + 1, value // 10, {**trial, out: digit})

    column(0, 0, {})
    return found


@kind("puzzle")
def letter_sum(rng: random.Random, level: int) -> Problem:
    """A sum in letters with one solution; asked is the number behind the result."""
    parts, digits = by_level(level, (2, 3), (2, 4), (2, 5), (2, 6))
    while True:
        numbers = [rng.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(parts)]
        total = sum(numbers)
        shown = [str(n) for n in (*numbers, total)]
        used = sorted(set("".join(shown)))
        if len(used) < by_level(level, 6, 7, 8, 9):
            continue
        letters = dict(zip(used, rng.sample(_LETTERS, len(used)), strict=True))
        words = ["".join(letters[d] for d in text) for text in shown]
        solutions = _letter_sums(words, 300)
        hidden = {letter: int(digit) for digit, letter in letters.items()}
        known: dict[str, int] = {}
        # letters are given away until one solution is left; those of the result, which is asked for, are not
        for letter in [x for x in hidden if x not in words[-1]]:
            if len(solutions) > 1:
                left = [s for s in solutions if s[letter] == hidden[letter]]
                if len(left) < len(solutions):
                    solutions, known[letter] = left, hidden[letter]
        if len(solutions) == 1 and solutions[0] == hidden and len(known) <= 2:
            break
    given = "".join(f" {letter} is {digit}." for letter, digit in known.items())
    question = (
        f"In {' + '.join(words[:-1])} = {words[-1]} each letter stands for one digit, different letters for "
        "different digits, and no "
        f"number starts with 0.{given} Which number does {words[-1]} stand for?"
    )
    program = solver(
        """
        from itertools import permutations
        letters = sorted(set("".join(words)))
        weight = {c: 0 for c in letters}
        for sign, word in [(1, w) for w in words[:-1]] + [(-1, words[-1])]:
            for i, c in enumerate(reversed(word)):
                weight[c] += sign * 10**i
        letters.sort(key=lambda c: -abs(weight[c]))
        first = {w[0] for w in words}
        room = [9 * sum(abs(weight[c]) for c in letters[i:]) for i in range(len(letters) + 1)]
        def solve(i, total, values):
            if abs(total) > room[i]:
                return None
            if i == len(letters):
                return values if total == 0 else None
            for d in range(letters[i] in first, 10):
                if d not in values.values() and known.get(letters[i], d) == d:
                    found = solve(i + 1, total + d * weight[letters[i]], {**values, letters[i]: d})
                    if found:
                        return found
        values = solve(0, 0, {})
        print("".join(str(values[c]) for c in words[-1]))
        """,
        words=words,
        known=known,
    )
    return Problem(question, total, program, 10 ** len(used))


@kind("puzzle")
def latin_square(rng: random.Random, level: int) -> Problem:
    """A Latin square with one completion; asked is its main diagonal and its last row."""
    size, holes = by_level(level, (4, 8), (5, 14), (6, 22), (7, 30))
    while True:
        base = [[(r + c) % size + 1 for c in range(size)] for r in range(size)]
        rows, columns, symbols = (rng.sample(range(size), size) for _ in range(3))
        square = [[symbols[base[r][c] - 1] + 1 for c in columns] for r in rows]
        grid = [row[:] for row in square]
        for cell in rng.sample(range(size * size), holes):
            grid[cell // size][cell % size] = 0
        if _completions(grid, 2) == 1:
            break
    shown = "\n".join(" ".join(str(x) if x else "." for x in row) for row in grid)
    question = (
        f"Fill the dots so that every row and every column holds each of the numbers 1 to {size} "
        f"once:\n{shown}\nWhat are the numbers of "
        "the main diagonal, from the top left, followed by those of the last row from the left? Answer with a "
        "comma-separated list "
        f"of {2 * size} numbers."
    )
    program = solver(
        """
        n = len(grid)
        def fill(cell):
            if cell == n * n:
                return True
            r, c = divmod(cell, n)
            if grid[r][c]:
                return fill(cell + 1)
            for v in range(1, n + 1):
                if v not in grid[r] and all(row[c] != v for row in grid):
                    grid[r][c] = v
                    if fill(cell + 1):
                        return True
                    grid[r][c] = 0
            return False
        fill(0)
        print(", ".join(str(x) for x in [grid[i][i] for i in range(n)] + grid[-1]))
        """,
        grid=grid,
    )
    answer = [str(square[i][i]) for i in range(size)] + [str(x) for x in square[-1]]
    return Problem(question, answer, program, size**holes)


def _completions(grid: list[list[int]], most: int) -> int:
    """The number of completions of a Latin square, counted up to ``most``; the fullest cell is filled first."""
    size = len(grid)
    best: tuple[int, int, set[int]] | None = None
    for r in range(size):
        for c in range(size):
            if not grid[r][c]:
                options = set(range(1, size + 1)) - set(grid[r]) - {row[c] for row in grid}
                if best is None or len(options) < len(best[2]):
                    best = (r, c, options)
    if best is None:
        return 1
    r, c, options = best
    found = 0
    for value in sorted(options):
        grid[r][c] = value
        found += _completions(grid, most - found)
        if found >= most:
            break
    grid[r][c] = 0
    return found


@kind("puzzle")
def round_trip(rng: random.Random, level: int) -> Problem:
    """The shortest round trip with precedence: dynamic programming over subsets against all orders."""
    size = by_level(level, 6, 7, 8, 9)
    far = [[0] * size for _ in range(size)]
    for a, b in combinations(range(size), 2):
        far[a][b], far[b][a] = rng.randint(10, 99), rng.randint(10, 99)
    before = [tuple(rng.sample(range(1, size), 2)) for _ in range(1 + level // 2)]
    before = [pair for i, pair in enumerate(before) if (pair[1], pair[0]) not in before[:i]]

    @cache
    def best(visited: int, last: int) -> int:
        if visited == 2**size - 1:
            return far[last][0]
        return min(
            (
                far[last][to] + best(visited | 1 << to, to)
                for to in range(1, size)
                if not visited >> to & 1 and all(visited >> a & 1 for a, b in before if b == to)
            ),
            default=10**6,
        )

    rules = " and ".join(f"place {a} before place {b}" for a, b in before)
    question = (
        f"A van starts at place 0, visits each of the places 1 to {size - 1} once and returns to place 0. It must "
        f"visit {rules}. The entry "
        f"in row i, column j of {far} is the time from place i to place j. What is the shortest total time of such "
        "a trip?"
    )
    program = solver(
        """
        from itertools import permutations
        print(min(
            sum(far[a][b] for a, b in zip((0, *order), (*order, 0)))
            for order in permutations(range(1, len(far)))
            if all(order.index(a) < order.index(b) for a, b in before)
        ))
        """,
        far=far,
        before=before,
    )
    return Problem(question, best(1, 0), program, size)


@kind("puzzle")
def job_assignment(rng: random.Random, level: int) -> Problem:
    """One job for each worker, some pairs forbidden, the lowest cost."""
    size = by_level(level, 5, 6, 8, 9)
    while True:
        cost = [[rng.randint(11, 99) for _ in range(size)] for _ in range(size)]
        forbidden = set(rng.sample([(i, j) for i in range(size) for j in range(size)], size))
        table = {0: 0}  # set of jobs taken by the first workers -> lowest cost
        for worker in range(size):
            after: dict[int, int] = {}
            for taken, total in table.items():
                for job in range(size):
                    if not taken >> job & 1 and (worker, job) not in forbidden:
                        new = taken | 1 << job
                        after[new] = min(after.get(new, 10**9), total + cost[worker][job])
            table = after
        if table:
            break
    banned = ", ".join(f"worker {i} job {j}" for i, j in sorted(forbidden))
    question = (
        f"Workers 0 to {size - 1} get one job each of the jobs 0 to {size - 1}. Row i of {cost} gives what each job "
        "costs when worker i "
        f"does it. These pairs are not allowed: {banned}. What is the lowest total cost?"
    )
    program = solver(
        """
        best = [10**9]
        cheapest = [min(row) for row in cost]
        def give(worker, used, total):
            if total + sum(cheapest[worker:]) >= best[0]:
                return
            if worker == len(cost):
                best[0] = total
                return
            for job in sorted(range(len(cost)), key=lambda j: cost[worker][j]):
                if job not in used and (worker, job) not in forbidden:
                    give(worker + 1, used | {job}, total + cost[worker][job])
        give(0, frozenset(), 0)
        print(best[0])
        """,
        cost=cost,
        forbidden=forbidden,
    )
    return Problem(question, min(table.values()), program, size)


@kind("puzzle")
def packing_choice(rng: random.Random, level: int) -> Problem:
    """Which things to pack: two limits and pairs that exclude each other."""
    size = by_level(level, 8, 11, 14, 17)
    things = [
        (rng.randint(5, 60), rng.randint(5, 60), rng.randint(10, 99)) for _ in range(size)
    ]  # weight, volume, value
    weight, volume = sum(t[0] for t in things) // 2, sum(t[1] for t in things) // 2
    clashes = sorted(rng.sample(list(combinations(range(size), 2)), size // 2))
    fronts: dict[tuple[int, ...], int] = {(0, 0): 0}  # (weight, volume, things chosen…) -> value
    for i, (w, v, value) in enumerate(things):
        for state, worth in list(fronts.items()):
            chosen = state[2:]
            fits = state[0] + w <= weight and state[1] + v <= volume
            if fits and not any((j, i) in clashes for j in chosen):
                fronts[(state[0] + w, state[1] + v, *chosen, i)] = worth + value
    question = (
        f"You may pack some of {size} things, numbered from 0, given as (weight, volume, value): {things}. The "
        "total weight may be at most "
        f"{weight}, the total volume at most {volume}. These pairs must not be packed together: {clashes}. What is "
        "the highest total value?"
    )
    program = solver(
        """
        best = 0
        for bits in range(2 ** len(things)):
            chosen = [t for i, t in enumerate(things) if bits >> i & 1]
            if sum(t[2] for t in chosen) <= best:
                continue
            if sum(t[0] for t in chosen) > weight or sum(t[1] for t in chosen) > volume:
                continue
            if any(bits >> i & 1 and bits >> j & 1 for i, j in clashes):
                continue
            best = sum(t[2] for t in chosen)
        print(best)
        """,
        things=things,
        weight=weight,
        volume=volume,
        clashes=clashes,
    )
    return Problem(question, max(fronts.values()), program, 2**size)


@kind("puzzle")
def lights_out(rng: random.Random, level: int) -> Problem:
    """Switches that toggle lamps, at a price: how many settings light exactly the wanted lamps, and the cheapest."""
    lamps, switches = by_level(level, (4, 7), (5, 10), (6, 13), (7, 16))
    wires = [sorted(rng.sample(range(lamps), rng.randint(2, 3))) for _ in range(switches)]
    prices = [rng.randint(11, 60) for _ in wires]
    pressed = rng.sample(range(switches), switches // 2)
    target = sorted(lamp for lamp in range(lamps) if sum(lamp in wires[s] for s in pressed) % 2)
    goal = sum(1 << lamp for lamp in target)
    table: dict[int, tuple[int, int]] = {0: (1, 0)}  # lit lamps -> number of settings, lowest price
    for wire, price in zip(wires, prices, strict=True):
        mask = sum(1 << lamp for lamp in wire)
        after = dict(table)
        for lit, (ways, lowest) in table.items():
            known, cheapest = after.get(lit ^ mask, (0, 10**9))
            after[lit ^ mask] = (known + ways, min(cheapest, lowest + price))
        table = after
    answer = 1000 * table[goal][0] + table[goal][1]
    wiring = "; ".join(
        f"switch {i} (price {price}): lamps {', '.join(map(str, wire))}"
        for i, (wire, price) in enumerate(zip(wires, prices, strict=True))
    )
    question = (
        f"{lamps} lamps (numbered from 0) are all off. Each switch that is pressed toggles its lamps: {wiring}. "
        "Each switch may be pressed once "
        "or not at all. Let s be the number of choices of switches after which exactly the lamps "
        f"{', '.join(map(str, target)) or 'none'} are lit, and p "
        "the lowest total price of the switches pressed in such a choice. What is 1000*s + p?"
    )
    program = solver(
        """
        found = []
        for bits in range(2 ** len(wires)):
            lit = 0
            for i, wire in enumerate(wires):
                if bits >> i & 1:
                    for lamp in wire:
                        lit ^= 1 << lamp
            if lit == goal:
                found.append(sum(price for i, price in enumerate(prices) if bits >> i & 1))
        print(1000 * len(found) + min(found))
        """,
        wires=wires,
        prices=prices,
        goal=goal,
    )
    return Problem(question, answer, program, 2**switches)
