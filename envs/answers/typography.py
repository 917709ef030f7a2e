r"""One spelling for the many ways to typeset the same answer: LaTeX commands, unicode signs, spaces, currency."""

from __future__ import annotations

import re

from envs.final_answer import clean

# what clean() would take for grouping, or lose, gets a sign of its own before
SET_OPEN, SET_CLOSE, ROW, DOLLAR = "⦃", "⦄", "⏎", "＄"
_SIGNS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ", "⩽": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ",
    "º": "°", "²": "^2", "³": "^3", "θ": r"\theta ", "～": " ", "∨": r"\lor ", "：": ":", "，": ",", "（": "(",
    "）": ")",
}  # fmt: skip
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅑": "1/9", "⅒": "1/10",
}  # fmt: skip
_SPELLINGS = [
    (re.compile(pattern), meant)
    for pattern, meant in (
        (r"\\\\(?:\[[^\]]{0,9}\])?", ROW),
        (r"\\(?:left|right|middle|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr)(?![a-zA-Z])\s*", ""),
        (r"\\(?:\{|lbrace(?![a-zA-Z]))", SET_OPEN),
        (r"\\(?:\}|rbrace(?![a-zA-Z]))", SET_CLOSE),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|rm|operatorname|texttt|textnormal)\s*\{([^{}]*)\}",
         r" \1 "),
        (r"\\(?:displaystyle|limits)(?![a-zA-Z])", ""),
        (r"\\(?:leq|leqslant|leqq)(?![a-zA-Z])|<=|=<", r"\\le "),
        (r"\\(?:geq|geqslant|geqq)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\neq(?![a-zA-Z])|!=", r"\\ne "),
        (r"\\(?:lor|vee)(?![a-zA-Z])", " or "),
        (r"\\(?:land|wedge)(?![a-zA-Z])", " and "),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|\\circ(?![a-zA-Z])", "°"),
        (r"\\(?:cdotp|ast)(?![a-zA-Z])", r"\\cdot "),
        (r"(?<=\d)(?:\\!|\{,\}\s?|,\\!|\\,|\{\\,\}|[\u2009\u202f\u00a0])(?=\d{3}(?!\d))", ""),
        (r"\\!", ""),
        (r"~|\\ ", " "),
        (r"\\sqrt\s*(\d|[a-z])(?![a-zA-Z])", r"\\sqrt{\1}"),
        (r"√\s*\(?(\d{1,9})\)?", r"\\sqrt{\1}"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\(?:overline|bar)\s*(\d)(?!\d)", r"\\overline{\1}"),
    )
]  # fmt: skip


def tidy(text: str) -> str:
    """One spelling for the many ways to typeset the same thing."""
    for vulgar, plain in _VULGAR.items():
        text = text.replace(vulgar, f" {plain}")
    for sign, meant in _SIGNS.items():
        text = text.replace(sign, meant)
    for pattern, meant in _SPELLINGS:
        text = pattern.sub(meant, text)
    text = text.replace(r"\$", DOLLAR)
    if text.count("$") == 1:  # no pair around a formula
        text = re.sub(r"\$(?=\s*[-+]?[\d.])", DOLLAR, text)
    text = re.sub(r"\s+", " ", clean(text).replace("$", "").replace("\\%", "%"))
    return text.strip(" ;")
