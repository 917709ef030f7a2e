"""Bridges: environments of other libraries as tasksets of ours. Nothing in ``rl`` knows that they exist.

| module | class | drives | package and pin | extra |
|---|---|---|---|---|
| ``mcp`` | ``McpTaskset`` | tools of an MCP server over stdio | mcp==2.3.0 (with vLLM) | mcp |
| ``gym`` | ``GymTaskset``, ``FrozenLakeTaskset`` | Gymnasium, discrete actions | gymnasium==1.4.0 | gym |
| ``textarena`` | ``TextArenaTaskset`` | TextArena games, one or two players | textarena==0.7.4 | textarena |
| ``openenv`` | ``OpenEnvTaskset`` | a server of openenv-core 0.3.0 | websockets==17.4 (with vLLM) | openenv |
| ``verifiers`` | ``VerifiersTaskset`` | verifiers' rollouts, v1 API | verifiers==0.4.0, in its own Python | verifiers |

Their packages are imported late: a module here can be imported without them, and its taskset says what to install.
``openenv`` needs no package of OpenEnv, which runs where the server is; verifiers' pins clash with ours, so it runs
in a process of its own Python. Servers that we open listen on 127.0.0.1 only.
"""
