"""The forms that answers come in: numbers and their units, lists and intervals, multiple choice."""
