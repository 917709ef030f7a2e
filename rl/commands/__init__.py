"""The console commands: thin entry points over `rl.recipes`."""
