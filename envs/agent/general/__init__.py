"""General agent, the hard tier: synthesised environments, each a database with typed tools of its own.

world.py      WorldSpec (schema, rows, rules) and the SQLite database made of it
category.py   how a category declares its data, tools and task templates
categories/   the categories, one module each
solution.py   solutions as source text: what they may do, and how they are run
case.py       Case: environment, tools, task, solution and verifier as one object
checks.py     why a case is not worth keeping
taskset.py    GeneralTaskset (made by program) and StoredTaskset (made by a language model)
synthesise.py environments written by a language model, each part tried in the sandbox
keep.py       keeping what a policy solves at least once in k tries
"""
