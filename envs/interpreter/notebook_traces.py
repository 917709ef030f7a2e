"""Problems about what is not a table of records: logs, time series, texts and graphs.

user       edges.csv (a, b, length) lists the roads … What is the length of the shortest way from n3 to n41?
assistant  python(code="import csv, heapq\\n…")
tool       117
assistant  \\boxed{117}
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from envs.interpreter.notebook_problem import Problem, by_level, csv_file, fixed, kind, solver
from envs.interpreter.notebook_tables import exact_text
from envs.words import ADJECTIVES, JOBS, NOUNS


@kind("data")
def access_log(rng: random.Random, level: int) -> Problem:
    """A server log: bytes sent to clients, by status and hour."""
    count = by_level(level, 80, 300, 1200, 4000)
    paths = [
        f"/{a.lower()}/{n.lower()}" for a, n in zip(rng.sample(ADJECTIVES, 12), rng.sample(NOUNS, 12), strict=True)
    ]
    hosts = [f"10.{rng.randint(0, 9)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}" for _ in range(4 + 4 * level)]
    first, last = sorted(rng.sample(range(24), 2))
    wanted = rng.choice([4, 5, 2])
    lines, clients, size_sum = [], set(), 0
    for second in sorted(rng.sample(range(86_400), count)):
        moment = datetime(2024, 6, 3) + timedelta(seconds=second)
        host, path = rng.choice(hosts), rng.choice(paths)
        status = rng.choices([200, 204, 301, 404, 403, 500, 503], weights=[5, 1, 1, 2, 1, 1, 1])[0]
        size = rng.randint(120, 90_000) if status in (200, 404, 500) else None
        lines.append(
            f'{host} - - [{moment:%d/Jun/%Y:%H:%M:%S} +0000] "{rng.choice(["GET", "POST"])} {path} HTTP/1.1" '
            f"{status} {'-' if size is None else size}"
        )
        if first <= moment.hour <= last and status // 100 == wanted:
            clients.add(host)
            size_sum += size or 0
    by_size = level % 2 == 0 or len(clients) < 3
    what = (
        "how many bytes were sent in all (a size of - is none)"
        if by_size
        else "what is the number of different clients, times 1000, plus the number of bytes sent modulo 1000"
    )
    answer = size_sum if by_size else 1000 * len(clients) + size_sum % 1000
    question = (
        "access.log is a web server's log in the common format (client, time, request, status, bytes). Of the "
        "requests answered "
        f"with a status of {wanted}00 to {wanted}99 from {first:02d}:00:00 to {last:02d}:59:59: {what}?"
    )
    program = solver(
        """
        import re
        line = re.compile(r'(\\S+) .*\\[.*?:(\\d+):.*\\] ".*" (\\d+) (\\S+)$')
        clients, sent = set(), 0
        for text in open("access.log"):
            host, hour, status, size = line.match(text).groups()
            if first <= int(hour) <= last and status[0] == wanted:
                clients.add(host)
                sent += 0 if size == "-" else int(size)
        print(sent if by_size else 1000 * len(clients) + sent % 1000)
        """,
        first=first,
        last=last,
        wanted=str(wanted),
        by_size=by_size,
    )
    return Problem(question, answer, program, count, {"access.log": ("\n".join(lines) + "\n").encode()})


@kind("data")
def sensor_series(rng: random.Random, level: int) -> Problem:
    """A series with gaps and two units: the highest moving mean."""
    count, window = by_level(level, (60, 3), (250, 5), (1000, 12), (4000, 24))
    start = datetime(2024, 1, 1) + timedelta(hours=rng.randint(0, 500))
    tenths, value = [], rng.randint(150, 250)
    for _ in range(count):
        value += rng.randint(-15, 15)
        tenths.append(value)
    missing = set(rng.sample(range(count), count // 20))
    kept = [t for i, t in enumerate(tenths) if i not in missing]
    best = max(sum(kept[i : i + window]) for i in range(len(kept) - window + 1))
    rows = []
    for i, t in enumerate(tenths):
        moment = (start + timedelta(hours=i)).isoformat(timespec="minutes")
        if i in missing:
            rows.append((moment, rng.choice(["", "error"]), "C"))
        elif level >= 2 and rng.random() < 0.3:
            rows.append((moment, fixed(18 * t + 3200), "F"))  # t tenths of a degree: 1.8 t / 10 + 32, in hundredths
        else:
            rows.append((moment, fixed(10 * t), "C"))
    if level >= 3:
        rng.shuffle(rows)
    question = (
        "sensor.csv (time, value, unit) holds the hourly readings of a thermometer, in degrees Celsius (C) or "
        "Fahrenheit (F); the "
        "rows may be out of order. Drop the readings that are no number, put the rest in order of time in degrees "
        f"Celsius, and take the mean of every {window} consecutive readings of what is left. What is the highest of "
        "these means, "
        "in degrees Celsius, rounded to 3 decimals?"
    )
    program = solver(
        """
        import csv
        from fractions import Fraction
        readings = []
        for row in sorted(csv.DictReader(open("sensor.csv")), key=lambda row: row["time"]):
            try:
                value = Fraction(row["value"])
            except ValueError:
                continue
            readings.append(value if row["unit"] == "C" else (value - 32) * 5 / 9)
        means = [sum(readings[i:i + window]) / window for i in range(len(readings) - window + 1)]
        print(f"{float(max(means)):.6f}")
        """,
        window=window,
    )
    answer = exact_text(Fraction(best, 10 * window), 3)
    return Problem(question, answer, program, count, {"sensor.csv": csv_file("time,value,unit", rows)}, decimals=3)


@kind("data")
def text_pairs(rng: random.Random, level: int) -> Problem:
    """A text: the three words that follow a given word most often."""
    vocabulary = [w.lower() for w in rng.sample(NOUNS + ADJECTIVES, by_level(level, 15, 25, 40, 60))]
    favourite = {w: rng.sample(vocabulary, 4) for w in vocabulary}
    while True:
        words = [rng.choice(vocabulary)]
        for _ in range(by_level(level, 300, 1200, 4000, 12_000)):
            words.append(
                rng.choices(favourite[words[-1]], weights=[5, 4, 3, 2])[0]
                if rng.random() < 0.7
                else rng.choice(vocabulary)
            )
        followers: dict[str, Counter[str]] = {w: Counter() for w in vocabulary}
        for one, two in pairwise(words):
            followers[one][two] += 1
        target = rng.choice(vocabulary)
        ranked = followers[target].most_common()
        if len(ranked) >= 4 and len({n for _, n in ranked[:4]}) == 4:
            break
    pieces, sentence = [], 0
    for word in words:
        sentence = sentence + 1 if sentence < 8 or rng.random() < 0.8 else 0
        shown = word.title() if sentence <= 1 else word
        pieces.append(
            shown
            + ("." if rng.random() < 0.08 else "," if rng.random() < 0.1 else "")
            + ("\n" if rng.random() < 0.1 else " ")
        )
    question = (
        "story.txt is a text. Ignore case, punctuation and line breaks: it is one long row of words. Which three "
        "words stand "
        f'directly after the word "{target}" most often, the most frequent first? Answer with a comma-separated list.'
    )
    program = solver(
        """
        import re
        words = re.findall(r"[a-z]+", open("story.txt").read().lower())
        counts = {}
        for i in range(len(words) - 1):
            if words[i] == target:
                counts[words[i + 1]] = counts.get(words[i + 1], 0) + 1
        print(", ".join(sorted(counts, key=lambda w: -counts[w])[:3]))
        """,
        target=target,
    )
    return Problem(question, [w for w, _ in ranked[:3]], program, len(words), {"story.txt": "".join(pieces).encode()})


def _roads(rng: random.Random, nodes: int, extra: int) -> list[tuple[str, str, int]]:
    """A connected graph: a random tree and ``extra`` more edges."""
    edges = {(rng.randrange(i), i) for i in range(1, nodes)}
    while len(edges) < nodes - 1 + extra:
        one, two = sorted(rng.sample(range(nodes), 2))
        edges.add((one, two))
    rows = [(f"n{a}", f"n{b}", rng.randint(3, 99)) for a, b in sorted(edges)]
    rng.shuffle(rows)
    return rows


@kind("data")
def shortest_way(rng: random.Random, level: int) -> Problem:
    """The shortest way in a weighted graph that avoids closed places."""
    nodes, extra = by_level(level, (15, 15), (50, 70), (160, 260), (400, 800))
    while True:
        rows = _roads(rng, nodes, extra)
        start, end, *closed = rng.sample([f"n{i}" for i in range(nodes)], 2 + nodes // 12)
        # Bellman-Ford here, Dijkstra in the program
        far = {start: 0}
        for _ in range(nodes):
            changed = False
            for a, b, length in rows:
                for one, two in ((a, b), (b, a)):
                    if one in far and two not in closed and far[one] + length < far.get(two, 10**9):
                        far[two] = far[one] + length
                        changed = True
            if not changed:
                break
        if end in far:
            break
    question = (
        "edges.csv (a, b, length) lists roads between places, usable both ways. The places "
        f"{', '.join(closed)} are closed. What is the length of the shortest way from {start} to {end}?"
    )
    program = solver(
        """
        import csv, heapq
        graph = {}
        for row in csv.DictReader(open("edges.csv")):
            for one, two in ((row["a"], row["b"]), (row["b"], row["a"])):
                graph.setdefault(one, []).append((two, int(row["length"])))
        queue, done = [(0, start)], set(closed)
        while queue:
            length, place = heapq.heappop(queue)
            if place in done:
                continue
            done.add(place)
            if place == end:
                print(length)
                break
            for other, more in graph[place]:
                heapq.heappush(queue, (length + more, other))
        """,
        start=start,
        end=end,
        closed=closed,
    )
    return Problem(question, far[end], program, len(rows), {"edges.csv": csv_file("a,b,length", rows)})


@kind("data")
def spanning_network(rng: random.Random, level: int) -> Problem:
    """The cheapest network that connects everything (minimum spanning tree)."""
    nodes, extra = by_level(level, (12, 20), (40, 80), (140, 300), (350, 900))
    rows = _roads(rng, nodes, extra)
    # Prim here, Kruskal in the program
    near: dict[str, dict[str, int]] = {}
    for a, b, length in rows:
        near.setdefault(a, {})[b] = near.setdefault(b, {})[a] = length
    inside, total, cost = set(), 0, {"n0": 0}
    while cost:
        new = min(cost, key=lambda place: cost[place])
        total += cost.pop(new)
        inside.add(new)
        for other, length in near[new].items():
            if other not in inside:
                cost[other] = min(length, cost.get(other, length))
    budget = rng.randint(2, 9)
    question = (
        "cables.csv (a, b, length) lists the cables that could be laid between stations. Choose cables so that "
        "every station is "
        f"connected to every other, with the smallest total length. One metre costs {budget} euros. What does it "
        "cost in all?"
    )
    program = solver(
        """
        import csv
        rows = sorted((int(r["length"]), r["a"], r["b"]) for r in csv.DictReader(open("cables.csv")))
        parent = {}
        def root(x):
            while parent.setdefault(x, x) != x:
                x = parent[x]
            return x
        total = 0
        for length, a, b in rows:
            a, b = root(a), root(b)
            if a != b:
                parent[a] = b
                total += length
        print(total * price)
        """,
        price=budget,
    )
    return Problem(question, total * budget, program, len(rows), {"cables.csv": csv_file("a,b,length", rows)})


@kind("data")
def message_chains(rng: random.Random, level: int) -> Problem:
    """A log of events that refer to each other: the longest chain of replies by people of certain jobs."""
    count = by_level(level, 40, 160, 600, 2000)
    jobs = rng.sample(JOBS, 6)
    users = [(f"u{i}", rng.choice(jobs)) for i in range(8 + 6 * level)]
    job_of = dict(users)
    wanted = sorted(rng.sample(jobs, 4))
    lines, length, weight = [], dict[int, int](), dict[int, int]()
    for number in range(1, count + 1):
        user, _ = rng.choice(users)
        reply = rng.randint(max(1, number - 25), number - 1) if number > 3 and rng.random() < 0.9 else 0
        size = rng.randint(1, 90)
        fits = job_of[user] in wanted
        length[number] = (length.get(reply, 0) + 1) if fits else 0
        weight[number] = (weight.get(reply, 0) if length.get(reply, 0) else 0) + size if fits else 0
        lines.append(f"{number} | {user} | {'reply to ' + str(reply) if reply else 'new topic'} | {size} words")
    question = (
        'messages.log has one message a line: "number | user | reply to NUMBER (or: new topic) | N words". users.csv '
        "(user, job) gives everybody's job. Consider only messages of people whose job is one of "
        f"{', '.join(wanted)}. A chain is a "
        "row of such messages, each a reply to the one before. What is the largest number of words in one chain?"
    )
    program = solver(
        """
        import csv, re
        job = {r["user"]: r["job"] for r in csv.DictReader(open("users.csv"))}
        best = {}
        for line in open("messages.log"):
            number, user, what, words = (part.strip() for part in line.split("|"))
            if job[user] in wanted:
                before = re.search(r"\\d+", what)
                best[number] = int(words.split()[0]) + best.get(before.group() if before else "", 0)
        print(max(best.values()))
        """,
        wanted=wanted,
    )
    files = {"messages.log": ("\n".join(lines) + "\n").encode(), "users.csv": csv_file("user,job", users)}
    return Problem(question, max(weight.values()), program, count, files)
