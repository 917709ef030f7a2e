"""The learner: packing, optimiser steps, checkpoints."""
