"""Certificates: what was checked of a task set, of which rows and which code, for whoever trains on it later.

    envs-check my_module.MyTaskset            writes certificates/age-3f2a….json
    rl-train … certificate=demand             refuses task sets of yours without a valid one

``identity`` says which task set it is, ``verdicts`` what the checks found, ``shelf`` keeps the files.
"""
