"""The operators that cost most, in torch and in Triton, behind one switch (``learner.ops``)."""
