"""A verifiers taskset for the tests: one question, one answer. Half of the reward is for a short one."""

import verifiers.v1 as vf


class SumData(vf.TaskData):
    a: int
    b: int


class SumTask(vf.Task[SumData]):
    @vf.reward(weight=0.5)
    async def right(self, trace) -> float:
        if self.data.a == 4:
            raise RuntimeError("nobody can judge a four")
        return float((trace.last_reply or "").strip().split(" ")[-1] == str(self.data.a + self.data.b))

    @vf.reward(weight=0.5)
    async def short(self, trace) -> float:
        return float(len(trace.last_reply or "") < 4)


class Sums(vf.Taskset[SumTask]):
    def load(self):
        for a in range(5):
            for b in range(5):
                yield SumTask(SumData(prompt=f"What is {a} + {b}?", system_prompt="Add.", a=a, b=b), self.config.task)


__all__ = ["Sums"]
