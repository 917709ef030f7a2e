"""What the house rules that look at one column have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.agent.general.world import Row
from envs.agent.grammar.conditions import GROUP, ITEM, Condition, Pick
from envs.agent.grammar.domains import Domain

if TYPE_CHECKING:
    from envs.agent.grammar.plot import Plot


class ColumnRule(Condition):
    """A rule about a column; ``form`` says in which table it stands."""

    forms: tuple[str, ...] = (ITEM, GROUP)
    column: str

    def __init__(self, form: str, number: int = 0) -> None:
        self.form, self.number = form, number
        self.needs = (f"{form}.{self.column}", *self.needs)

    @property
    def x(self) -> str:
        return "i" if self.form == ITEM else "g"

    def row(self, pick: Pick) -> Row:
        return pick.item if self.form == ITEM else pick.group

    def things(self, domain: Domain) -> dict[str, str]:
        """What the column stands with, as words of a sentence."""
        return things(self.form, domain)

    def fit(self, plot: Plot, item: Row) -> None:
        self.put(plot, item if self.form == ITEM else plot.group_of(item), True)

    def spoil(self, plot: Plot, item: Row) -> None:
        self.put(plot, item if self.form == ITEM else plot.own_group(item), False)

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        raise NotImplementedError


def things(form: str, domain: Domain) -> dict[str, str]:
    """``thing``, ``a_thing``, ``A_thing``: the item or its group."""
    role = "item" if form == ITEM else "group"
    return {
        "thing": domain.say(f"{{{role}}}"),
        "a_thing": domain.say(f"{{a_{role}}}"),
        "A_thing": domain.say(f"{{A_{role}}}"),
    }
