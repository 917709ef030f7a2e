"""The words of a task: the system prompt with the house rules, and the request of a person."""

from __future__ import annotations

import random

from envs.agent.grammar.brief import Brief
from envs.agent.grammar.court import answer_fields
from envs.agent.grammar.domains import capital, listed
from envs.agent.grammar.naming import in_words, naming_of
from envs.agent.grammar.structure import Structure

_HELLO = ("", "", "", "Hello. ", "Good morning. ", "Hi there. ", "A quick request. ", "Can you take care of this? ",
          "One for you. ", "This just came in. ")  # fmt: skip
_NEED = {
    "pick": (
        "{name} needs {an_item} on {date}, for {n} {units}. Which one should it be?",
        "I am looking for {an_item} for {name}: {date}, {n} {units}.",
        "Which {item} would you give {name} on {date}? It is for {n} {units}.",
        "{name} has asked what we can offer on {date} for {n} {units}. Find the right {item}.",
        "We have to name {an_item} to {name} for {date}; {n} {units} are wanted.",
    ),
    "book": (
        "Please {verb} {an_item} for {name} on {date}, for {n} {units}.",
        "{name} would like {an_item} on {date}, for {n} {units}. Please {verb} it.",
        "Can you {verb} {an_item} for {name}? The date is {date}, and {n} {units} are wanted.",
        "On {date} {name} wants {an_item} for {n} {units}. {Verb} one, please.",
        "{name} just called about {date}: {an_item} for {n} {units} is to be {booked}.",
    ),
    "move": (
        "The {record} {own} of {name} on {date} cannot stay as it is: the {item} is out of order. Cancel it and {verb} "
        "another {item} for the same day and the same {n} {units}.",
        "{name} has the {record} {own} on {date}, but that {item} has broken down. Please cancel it and {verb} a "
        "different {item} for {name}, same day, again {n} {units}.",
        "We have to move {name}: the {item} of {record} {own} is not available after all. Cancel that {record} and "
        "{verb} another {item} on {date}, again for {n} {units}.",
    ),
    "plan": (
        "{name} needs {k} {items} at once on {date}, each for {n} {units}, and no two of them of the same {group}.",
        "Put together {k} {items} for {name} on {date}: each is for {n} {units}, and each has to belong to a different "
        "{group}.",
        "For {name} we need a set of {k} {items} on {date}. Each is for {n} {units}; they must all be of different "
        "{groups}.",
    ),
    "audit": (
        "Please go through the active {records} for {date} and cancel every one that breaks a house rule.",
        "Somebody let through {records} that our house rules do not allow. Look at the active ones for {date} and "
        "cancel those.",
        "Check our active {records} on {date} against the house rules, and cancel each one that should not be there.",
    ),
    "tally": (
        "What do our active {records} for {date} come to altogether?",
        "Add up what we charge for the active {records} on {date}, please.",
        "I need one figure: the sum of the totals of all active {records} on {date}.",
    ),
}  # fmt: skip
_CLAUSES = (
    "Make sure that {that}.", "It is important that {that}.", "Please see to it that {that}.",
    "The conditions are these: {semicolons}.", "What counts: {semicolons}.", "We can only take one of which this is "
    "true: {semicolons}.",
)  # fmt: skip
_SCOPE = (
    "I only mean {records} whose {item} fits this: {semicolons}.", "Look only at those whose {item} meets all of this: "
    "{semicolons}.", "Leave out everything unless its {item} is of this description: {semicolons}.",
    "Only those count whose {item} is such that {that}.",
)  # fmt: skip
_EACH = ("For each of them this must be true: {semicolons}.", "Every single one has to meet this: {semicolons}.")
_CHEAPEST = (
    "Of all that is possible, take the one with the lowest total.", "If several will do, the one that comes to the "
    "least is wanted.", "Among those the lowest total decides.", "Go for the cheapest of them, all told.",
)  # fmt: skip
_EXTREME = (
    "Of all that is possible, take the one whose {attribute} is {most}.", "If several will do, choose the one with the "
    "{most} {attribute}.", "Among those the {most} {attribute} decides.",
)  # fmt: skip
_SETS = (
    "Choose the set with the lowest total.",
    "Of all sets that are possible, we want the one that comes to the least.",
)
_CHARGE = ("Charge what our price rules give.", "The total has to be the one that our price rules give.",
           "Work out the total by our price rules.")  # fmt: skip
_LEAVE = ("All others stay as they are.", "Do not touch the others.", "Leave the rest alone.")


def request(structure: Structure, brief: Brief, rng: random.Random) -> str:
    """What the person asks for."""
    domain, naming = structure.domain, naming_of(structure)
    own = naming.show_value("record", brief.own_id)
    words = {"name": brief.client, "date": in_words(brief.day), "n": brief.quantity, "k": brief.count, "own": own}
    clauses = [wish.phrase(domain, rng.randrange(6)) for wish in brief.wishes]
    rng.shuffle(clauses)
    told = {
        "that": listed([clauses[0], *(f"that {clause}" for clause in clauses[1:])]),
        "semicolons": "; ".join(clauses),
    }
    forms = {"plan": _EACH, "audit": _SCOPE, "tally": _SCOPE}.get(brief.goal, _CLAUSES)
    parts = [rng.choice(_NEED[brief.goal]), rng.choice(forms)]
    column, way = brief.objective
    if brief.goal == "plan":
        parts.append(rng.choice(_SETS))
    elif brief.goal in ("pick", "book", "move"):
        parts.append(rng.choice(_CHEAPEST if column == "price" else _EXTREME))
        if brief.goal != "pick":
            parts.append(rng.choice(_CHARGE))
    elif brief.goal == "audit":
        parts.append(rng.choice(_LEAVE))
    if column != "price":
        words |= {
            "attribute": domain.attributes[int(column[1:])].name,
            "most": "highest" if way == "most" else "lowest",
        }
    text = rng.choice(_HELLO) + " ".join(domain.say(part, **words, **told) for part in parts)
    return text + _form(structure, brief)


def _form(structure: Structure, brief: Brief) -> str:
    if brief.goal == "tally":
        return "\n\nCall submit_result once. result: the sum, a whole number."
    if brief.goal not in ("pick", "plan"):
        return ""
    item, total = answer_fields(structure, brief.goal)
    one = structure.domain.say("the id of the {item}" if brief.goal == "pick" else "the list of ids of the {items}")
    of = "its total" if brief.goal == "pick" else "what they come to together"
    return f'\n\nCall submit_result once. result: an object with "{item}" ({one}) and "{total}" ({of}, a whole number).'


def law(structure: Structure) -> tuple[str, ...]:
    """The house rules and price rules, a sentence each."""
    domain = structure.domain
    rules = [rule.text(domain) for rule in structure.rules]
    if structure.prices or structure.family != "audit":
        rules.append(domain.say("The total of {a_record} is the number of {units} times the price per {unit}."))
        rules += [rule.text(domain) for rule in structure.prices]
        rules.append("Percentages are added up before they are applied; fees come on top.")
    return tuple(capital(rule) for rule in rules)


def system(structure: Structure, brief: Brief) -> str:
    """The system prompt."""
    opening = f"You work for {structure.domain.about}. Today is {in_words(brief.today)}. "
    opening += "Use the tools; what they do not tell you, you do not know."
    if "tool" in structure.style.rules:
        return f"{opening} The house rules can be read with a tool and hold for everything you do."
    return "\n".join([f"{opening} House rules:", *(f"{n}. {rule}" for n, rule in enumerate(law(structure), 1))])
