"""Coarse stages: from the pilots of a block to a first scene."""
