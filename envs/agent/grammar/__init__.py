"""Worlds: general-agent environments that a grammar composes: tables, rules, tools and tasks are drawn."""
