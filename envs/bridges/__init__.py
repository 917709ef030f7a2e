"""Bridges: environments of other libraries as tasksets of ours. Nothing in ``rl`` knows that they exist.

| module | class | drives | package and pin | extra |
|---|---|---|---|---|
| ``mcp`` | ``McpTaskset`` | tools of an MCP server over stdio | mcp==2.3.0 (with vLLM) | mcp |
| ``gym`` | ``GymTaskset``, ``FrozenLakeTaskset`` | Gymnasium, discrete actions | gymnasium==1.4.0 | gym |
| ``textarena`` | ``TextArenaTaskset`` | TextArena games, one or two players | textarena==0.7.4 | textarena |
| ``openenv`` | ``OpenEnvTaskset`` | a server of openenv-core 0.3.0 | websockets==17.4 (with vLLM) | openenv |
"""
