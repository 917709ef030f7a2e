"""A module that the tests of certificates edit: they copy it, so that its code can change."""

from envs.environment import Environment
from envs.taskset import Taskset
from envs.types import Message, Task

HIDDEN = None  # a file that the tasks depend on and that ``inputs()`` does not name


class Repeat(Environment):
    def __init__(self, task, polite=False, **config):
        super().__init__(task, **config)
        self.polite = polite

    def oracle(self, history):
        return Message("assistant", self.task.answer)


class RepeatTaskset(Taskset):
    family, env_class = "repeat", Repeat

    def __init__(self, split="train", seed=0, size=None, digits=6, **config):
        super().__init__(split, seed, size, **config)
        self.digits = digits

    def task(self, index):
        key, word = self.draw(index, lambda rng: (f"No. {rng.random()}", str(rng.randrange(10**self.digits))))
        word += HIDDEN.read_text() if HIDDEN else ""
        return Task(self.task_id(index), self.family, (Message("user", f"{key}: {word}"),), word, {"key": key})


class Given(Repeat):
    """Whoever gives up is right as well."""

    def score(self, episode):
        return {"outcome": float(episode.answer in (self.task.answer, "I do not know."))}


class GivenTaskset(RepeatTaskset):
    family, env_class, chance = "given", Given, 1.0
