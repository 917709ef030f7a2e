"""An OpenEnv server for the tests, run by the Python that has openenv-core: a guessing game on a free port."""

import socket
import time

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Guess(Action):
    number: int
    note: str | None = None


class Answer(Observation):
    text: str = ""


class Guessing(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self.target, self.tries = 0, 0

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.target, self.tries = (seed or 0) % 10, 0
        return Answer(text=f"I think of a number from 0 to {kwargs.get('top', 9)}.")

    def step(self, action, timeout_s=None, **kwargs):
        if action.number == 13:
            raise RuntimeError("thirteen is a bad number")
        if action.number == 99:
            time.sleep(3)
        self.tries += 1
        if action.number == self.target:
            return Answer(text="yes", done=True, reward=1.0)
        return Answer(text="higher" if self.target > action.number else "lower", reward=-0.1)

    @property
    def state(self):
        return State(step_count=self.tries)


if __name__ == "__main__":
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_fastapi_app(Guessing, Guess, Answer, max_concurrent_envs=4)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
