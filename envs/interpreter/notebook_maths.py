"""Mathematics that has to be computed: counting, recurrences, exact linear algebra, expectations, optimisation.

    user       How many integers n with 1 <= n <= 48210 have … ?
    assistant  python(code="low, high = 1, 48210\\n…")
    tool       3318
    assistant  \\boxed{3318}

Where a count can be had in two ways, the generator takes one and the program the other.
"""

from __future__ import annotations

import random
from fractions import Fraction
from functools import cache
from math import comb, gcd, prod

from envs.interpreter.notebook_problem import Problem, by_level, kind, solver


@kind("maths")
def residue_count(rng: random.Random, level: int) -> Problem:
    """Solutions of a polynomial congruence in a range that are coprime to a number."""
    top = rng.randint(*by_level(level, (500, 3000), (5_000, 30_000), (50_000, 150_000), (200_000, 400_000)))
    modulus, other = rng.randint(7, 12 + 6 * level), rng.choice([6, 10, 15, 21, 30, 35, 42])
    a, b, c = rng.randint(1, 9), rng.randint(1, 9), rng.randint(2, 4)
    one = rng.choice([n for n in range(1, 2 * other) if gcd(n, other) == 1])  # a solution, so that there are some
    residue = (a * pow(one, c, modulus) + b * one) % modulus
    period = modulus * other // gcd(modulus, other)
    good = [
        n for n in range(period) if (a * pow(n, c, modulus) + b * n - residue) % modulus == 0 and gcd(n, other) == 1
    ]
    answer = top // period * len(good) + sum(1 for n in good if 1 <= n <= top % period)
    question = (
        f"How many integers n with 1 <= n <= {top} are coprime to {other} and satisfy "
        f"{a}*n^{c} + {b}*n ≡ {residue} (mod {modulus})?"
    )
    program = solver(
        """
        from math import gcd
        print(sum(1 for n in range(1, top + 1) if (a * n**c + b * n - residue) % modulus == 0 and gcd(n, other) == 1))
        """,
        top=top,
        a=a,
        b=b,
        c=c,
        residue=residue,
        modulus=modulus,
        other=other,
    )
    return Problem(question, answer, program, top)


@kind("maths")
def digit_count(rng: random.Random, level: int) -> Problem:
    """Numbers in a range by the sum and the neighbours of their digits: digit dynamic programming against a scan."""
    top = rng.randint(*by_level(level, (3_000, 9_000), (20_000, 90_000), (150_000, 300_000), (350_000, 600_000)))
    divisor = rng.randint(3, 11)
    residue, gap = rng.randrange(divisor), rng.randint(0, 3)
    digits = [int(d) for d in str(top)]

    @cache
    def count(position: int, total: int, last: int, tight: bool) -> int:
        if position == len(digits):
            return int(last >= 0 and total == residue)
        found = 0
        for d in range((digits[position] if tight else 9) + 1):
            started = last >= 0 or d > 0
            if last >= 0 and abs(d - last) < gap:
                continue
            found += count(position + 1, (total + d) % divisor, d if started else -1, tight and d == digits[position])
        return found

    neighbours = f" and any two neighbouring digits differ by at least {gap}" if gap else ""
    question = (
        f"How many integers from 1 to {top}, written in base 10, have a digit sum that leaves the remainder "
        f"{residue} when divided "
        f"by {divisor}{neighbours}?"
    )
    program = solver(
        """
        total = 0
        for n in range(1, top + 1):
            d = [int(c) for c in str(n)]
            if sum(d) % divisor == residue and all(abs(x - y) >= gap for x, y in zip(d, d[1:])):
                total += 1
        print(total)
        """,
        top=top,
        divisor=divisor,
        residue=residue,
        gap=gap,
    )
    return Problem(question, count(0, 0, -1, True), program, top)


@kind("maths")
def recurrence_term(rng: random.Random, level: int) -> Problem:
    """A far term of a linear recurrence modulo a prime: stepping against matrix powers."""
    order = by_level(level, 2, 3, 4, 5)
    index = rng.randint(*by_level(level, (60, 200), (1_000, 5_000), (10_000, 30_000), (60_000, 120_000)))
    modulus = rng.choice([10_007, 65_537, 99_991, 1_000_003])
    factors = [rng.randint(1, 9) * rng.choice([1, -1]) for _ in range(order)]
    first, shift = [rng.randint(0, 9) for _ in range(order)], rng.randint(1, 9)
    window = list(first)
    for _ in range(index - order + 1):
        window = [*window[1:], (sum(f * a for f, a in zip(factors, reversed(window), strict=True)) + shift) % modulus]
    terms = " + ".join(f"({f})*a(n-{i + 1})" for i, f in enumerate(factors))
    given = ", ".join(f"a({i}) = {a}" for i, a in enumerate(first))
    question = (
        f"A sequence has {given} and a(n) = {terms} + {shift} for n >= {order}. "
        f"What is a({index}) modulo {modulus} (between 0 and {modulus - 1})?"
    )
    program = solver(
        """
        k = len(factors)
        size = k + 1
        M = [factors + [shift]] + [[int(j == i) for j in range(size)] for i in range(k - 1)] + [[0] * k + [1]]
        def times(A, B):
            return [[sum(a * b for a, b in zip(row, col)) % modulus for col in zip(*B)] for row in A]
        power, R = index - k + 1, [[int(i == j) for j in range(size)] for i in range(size)]
        while power:
            if power & 1:
                R = times(R, M)
            M, power = times(M, M), power >> 1
        print(sum(r * v for r, v in zip(R[0], first[::-1] + [1])) % modulus)
        """,
        factors=factors,
        shift=shift,
        first=first,
        index=index,
        modulus=modulus,
    )
    return Problem(question, window[-1], program, index)


@kind("maths")
def determinant(rng: random.Random, level: int) -> Problem:
    """The determinant of an integer matrix: products of elementary matrices against elimination."""
    size = by_level(level, 4, 5, 7, 9)
    diagonal = [rng.choice([1, 2, 3, -1, -2, 5]) for _ in range(size)]
    matrix = [[diagonal[i] if i == j else rng.randint(-2, 2) if j > i else 0 for j in range(size)] for i in range(size)]
    answer = prod(diagonal)
    for _ in range(3 * size):  # adding a multiple of one row to another leaves the determinant
        one, two = rng.sample(range(size), 2)
        factor = rng.choice([-1, 1])
        if max(abs(x + factor * y) for x, y in zip(matrix[one], matrix[two], strict=True)) < 60:
            matrix[one] = [x + factor * y for x, y in zip(matrix[one], matrix[two], strict=True)]
    row, factor = rng.randrange(size), rng.choice([3, 5, 7, 11, 13])
    matrix[row] = [factor * x for x in matrix[row]]
    one, two = rng.sample(range(size), 2)
    matrix[one], matrix[two] = matrix[two], matrix[one]
    question = f"What is the determinant of the matrix with the rows {matrix}?"
    program = solver(
        """
        from fractions import Fraction
        A, det = [[Fraction(x) for x in row] for row in rows], Fraction(1)
        for i in range(len(A)):
            pivot = next((r for r in range(i, len(A)) if A[r][i]), None)
            if pivot is None:
                det = Fraction(0)
                break
            if pivot != i:
                A[i], A[pivot], det = A[pivot], A[i], -det
            det *= A[i][i]
            for r in range(i + 1, len(A)):
                f = A[r][i] / A[i][i]
                A[r] = [x - f * y for x, y in zip(A[r], A[i])]
        print(det)
        """,
        rows=matrix,
    )
    return Problem(question, -answer * factor, program, size)


@kind("maths")
def linear_system(rng: random.Random, level: int) -> Problem:
    """A square system with a rational solution; asked is a combination of the unknowns."""
    size = by_level(level, 3, 4, 6, 8)
    while True:
        solution = [Fraction(rng.randint(-30, 30), rng.randint(2, 9)) for _ in range(size)]
        matrix = [[rng.randint(-9, 9) for _ in range(size)] for _ in range(size)]
        for i in range(size):  # a heavy diagonal: never singular
            matrix[i][i] = sum(abs(x) for j, x in enumerate(matrix[i]) if j != i) + rng.randint(1, 9)
        right = [sum(a * x for a, x in zip(row, solution, strict=True)) for row in matrix]
        weights = [rng.randint(1, 9) for _ in range(size)]
        answer = sum(w * x for w, x in zip(weights, solution, strict=True))
        if answer.denominator > 1:
            break
    names = [f"x{i + 1}" for i in range(size)]
    lines = "\n".join(
        " + ".join(f"({a})*{n}" for a, n in zip(row, names, strict=True)) + f" = {r}"
        for row, r in zip(matrix, right, strict=True)
    )
    asked = " + ".join(f"{w}*{n}" for w, n in zip(weights, names, strict=True))
    question = f"The numbers {', '.join(names)} satisfy\n{lines}\nWhat is {asked}, as an exact fraction p/q?"
    program = solver(
        """
        from fractions import Fraction
        A = [[Fraction(x) for x in row] + [Fraction(r)] for row, r in zip(rows, right)]
        for i in range(len(A)):
            p = next(r for r in range(i, len(A)) if A[r][i])
            A[i], A[p] = A[p], A[i]
            A[i] = [x / A[i][i] for x in A[i]]
            for r in range(len(A)):
                if r != i:
                    A[r] = [x - A[r][i] * y for x, y in zip(A[r], A[i])]
        print(sum(w * row[-1] for w, row in zip(weights, A)))
        """,
        rows=matrix,
        right=[str(r) for r in right],
        weights=weights,
    )
    return Problem(question, str(answer), program, size)


@kind("maths")
def lattice_paths(rng: random.Random, level: int) -> Problem:
    """Monotone paths that avoid points: inclusion by first blocked point against a table."""
    width, height, blocks = by_level(level, (7, 6, 4), (12, 11, 8), (20, 18, 16), (40, 35, 40))
    inner = [(x, y) for x in range(width + 1) for y in range(height + 1) if 0 < x + y < width + height]
    while True:
        blocked = sorted(rng.sample(inner, blocks), key=lambda p: (p[0] + p[1], p))
        first: dict[tuple[int, int], int] = {}  # paths to a point that meet no blocked point before it
        for x, y in [*blocked, (width, height)]:
            first[x, y] = comb(x + y, x) - sum(
                n * comb(x - a + y - b, x - a) for (a, b), n in first.items() if a <= x and b <= y
            )
        if first[width, height] > 20:
            break
    modulus = 1_000_003
    question = (
        f"A path goes from (0, 0) to ({width}, {height}) in steps of +1 in x or +1 in y. How many such paths avoid "
        "all the points "
        f"{', '.join(str(p) for p in blocked)}? Give the number modulo {modulus}."
    )
    program = solver(
        """
        from functools import cache
        @cache
        def ways(x, y):
            if x < 0 or y < 0 or (x, y) in blocked:
                return 0
            return 1 if (x, y) == (0, 0) else ways(x - 1, y) + ways(x, y - 1)
        print(ways(width, height) % modulus)
        """,
        width=width,
        height=height,
        blocked=set(blocked),
        modulus=modulus,
    )
    return Problem(question, first[width, height] % modulus, program, width * height)


@kind("maths")
def board_expectation(rng: random.Random, level: int) -> Problem:
    """Expected number of throws to leave a board with jumps, exact: backwards substitution against summed chances."""
    cells, sides = by_level(level, (6, 3), (10, 4), (16, 5), (24, 6))
    weights = [rng.randint(1, 4 + level) for _ in range(sides)]  # of a loaded die
    jumps: dict[int, int] = {}
    for start in rng.sample(range(1, cells - 2), level):
        jumps[start] = rng.randint(start + 1, cells - 1)
    expected: dict[int, Fraction] = {}
    for cell in range(cells - 1, -1, -1):
        onward = Fraction(0)
        for throw in range(1, sides + 1):
            to = cell + throw
            while to in jumps:
                to = jumps[to]
            onward += weights[throw - 1] * expected[to] if to < cells else 0
        expected[cell] = 1 + onward / sum(weights)
    rules = "; ".join(f"from {a} to {b}" for a, b in sorted(jumps.items()))
    chances = ", ".join(f"{side} with {weight}/{sum(weights)}" for side, weight in enumerate(weights, 1))
    question = (
        f"A token starts on cell 0 of a board with the cells 0 to {cells - 1}. Each turn a loaded die is thrown, which "
        f"shows {chances}, and the token moves forward by that number; beyond cell {cells - 1} it has left the board. "
        "A token that lands on certain cells jumps at once (and jumps again if it lands on such a cell by that): "
        f"{rules}. What is the expected number of throws until the token has left the board, as an exact fraction p/q?"
    )
    program = solver(
        """
        from fractions import Fraction
        def settle(c):
            while c in jumps:
                c = jumps[c]
            return c
        # the chance to be on each cell after each throw; the expectation is the sum of the chances to be still there
        chance, total = {0: Fraction(1)}, Fraction(0)
        while chance:
            total += sum(chance.values())
            after = {}
            for cell, p in chance.items():
                for throw, weight in enumerate(weights, 1):
                    to = settle(cell + throw)
                    if to < cells:
                        after[to] = after.get(to, 0) + p * weight / sum(weights)
            chance = after
        print(total)
        """,
        jumps=jumps,
        weights=weights,
        cells=cells,
    )
    return Problem(question, str(expected[0]), program, cells)


@kind("maths")
def subset_sums(rng: random.Random, level: int) -> Problem:
    """Subsets of a list with a given remainder of their sum: a table against bit masks or a split in halves."""
    size, modulus = by_level(level, (10, 13), (14, 29), (20, 101), (28, 499))
    numbers = rng.sample(range(10, 999), size)
    residue = rng.randrange(modulus)
    table = [1] + [0] * (modulus - 1)
    for number in numbers:
        table = [table[r] + table[(r - number) % modulus] for r in range(modulus)]
    question = (
        f"How many subsets of {numbers} (the empty set counts too, its sum is 0) have a sum that leaves the "
        f"remainder {residue} when "
        f"divided by {modulus}?"
    )
    program = solver(
        """
        from collections import Counter
        def sums(part):
            found = [0]
            for x in part:
                found += [s + x for s in found]
            return Counter(s % modulus for s in found)
        half = len(numbers) // 2
        left, right = sums(numbers[:half]), sums(numbers[half:])
        print(sum(n * right[(residue - r) % modulus] for r, n in left.items()))
        """,
        numbers=numbers,
        residue=residue,
        modulus=modulus,
    )
    return Problem(question, table[residue], program, 2**size)


@kind("maths")
def prime_sum(rng: random.Random, level: int) -> Problem:
    """The sum of the primes of one residue class in a range whose index is no multiple of a number."""
    low = rng.randint(10, 5_000)
    high = low + rng.randint(*by_level(level, (300, 900), (3_000, 9_000), (30_000, 60_000), (100_000, 200_000)))
    modulus = rng.choice([5, 7, 8, 9, 11, 12])
    residue = rng.choice([r for r in range(modulus) if gcd(r, modulus) == 1])
    skip = rng.randint(2, 6)
    sieve = bytearray([1]) * (high + 1)
    for n in range(2, int(high**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, high + 1, n)))
    chosen = [p for p in range(max(2, low), high + 1) if sieve[p] and p % modulus == residue]
    answer = sum(p for i, p in enumerate(chosen, 1) if i % skip)
    question = (
        f"List the primes p with {low} <= p <= {high} and p ≡ {residue} (mod {modulus}) in ascending order and "
        "strike out every "
        f"{skip}th of them (the {skip}th, the {2 * skip}th, …). What is the sum of those that remain?"
    )
    program = solver(
        """
        def prime(n):
            return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
        first = low + (residue - low) % modulus
        found = [n for n in range(first, high + 1, modulus) if prime(n)]
        print(sum(p for i, p in enumerate(found) if (i + 1) % skip))
        """,
        low=low,
        high=high,
        modulus=modulus,
        residue=residue,
        skip=skip,
    )
    return Problem(question, answer, program, high - low)


@kind("maths")
def orbit_cycle(rng: random.Random, level: int) -> Problem:
    """Tail and cycle of an iterated map, found with two pointers here and with a dictionary by the program."""
    while True:
        modulus = rng.randint(*by_level(level, (300, 2_000), (20_000, 90_000), (10**6, 5 * 10**6), (10**8, 10**9)))
        a, b, c, start = rng.randint(1, 50), rng.randint(0, 50), rng.randint(1, 500), rng.randint(0, 99)

        def step(x: int, a: int = a, b: int = b, c: int = c, modulus: int = modulus) -> int:
            return (a * x * x + b * x + c) % modulus

        slow, fast = step(start), step(step(start))
        while slow != fast:
            slow, fast = step(slow), step(step(fast))
        tail, slow = 0, start
        while slow != fast:
            slow, fast, tail = step(slow), step(fast), tail + 1
        cycle, fast = 1, step(slow)
        while slow != fast:
            fast, cycle = step(fast), cycle + 1
        if cycle > 3:
            break
    question = (
        f"Let x(0) = {start} and x(n+1) = ({a}*x(n)^2 + {b}*x(n) + {c}) mod {modulus}. Let t be the smallest index "
        "whose value "
        "appears again later, and c the smallest positive number with x(t+c) = x(t). What is 1000*t + c?"
    )
    program = solver(
        """
        seen, x, n = {}, start, 0
        while x not in seen:
            seen[x] = n
            x, n = (a * x * x + b * x + c) % modulus, n + 1
        print(1000 * seen[x] + n - seen[x])
        """,
        start=start,
        a=a,
        b=b,
        c=c,
        modulus=modulus,
    )
    return Problem(question, 1000 * tail + cycle, program, modulus)


@kind("maths")
def coin_ways(rng: random.Random, level: int) -> Problem:
    """Ways to pay an amount when each coin may be used a limited number of times."""
    kinds, limit = by_level(level, (3, 8), (4, 12), (6, 15), (8, 25))
    coins = sorted(rng.sample(range(2, 30 + 10 * level), kinds))
    limits = [rng.randint(3, limit) for _ in coins]
    highest = sum(c * n for c, n in zip(coins, limits, strict=True))
    ways = [1] + [0] * highest
    for coin, most in zip(coins, limits, strict=True):
        ways = [sum(ways[s - coin * k] for k in range(most + 1) if s >= coin * k) for s in range(highest + 1)]
    amounts = [s for s in range(highest // 3, 2 * highest // 3 + 1) if ways[s] > 2] or [
        max(range(highest), key=lambda s: ways[s])
    ]
    amount = rng.choice(amounts)
    question = (
        f"A purse holds these coins: {', '.join(f'{n} of value {c}' for c, n in zip(coins, limits, strict=True))}. "
        "Coins of the "
        f"same value are alike. In how many ways can exactly {amount} be paid with them? Add to the number of ways "
        "the number of "
        f"all amounts from 1 to {highest} that can be paid at all, times 1000000."
    )
    program = solver(
        """
        ways = {0: 1}
        for coin, most in zip(coins, limits):
            more = {}
            for total, n in ways.items():
                for k in range(most + 1):
                    more[total + k * coin] = more.get(total + k * coin, 0) + n
            ways = more
        print(ways[amount] + (len(ways) - 1) * 1000000)
        """,
        coins=coins,
        limits=limits,
        amount=amount,
    )
    payable = sum(1 for s in range(1, highest + 1) if ways[s])
    return Problem(question, ways[amount] + payable * 1_000_000, program, prod(n + 1 for n in limits))
