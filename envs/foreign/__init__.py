"""Task sets in formats that people have on disk, as tasksets of ours. What cannot be played is refused by name.

| module | env= | what it reads |
|---|---|---|
| ``swe_rows`` | swe_rows | rows like those of SWE-bench, and a folder of git repositories |
| ``terminal_tasks`` | terminal_tasks | folders of terminal-bench and of Harbor |
| ``bfcl`` | bfcl | the Berkeley Function Calling Leaderboard, from the package bfcl-eval |

A refused row or task has a cause in words; ``Taskset.refused`` holds them, the log and the certificate tell them.
"""
