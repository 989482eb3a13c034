"""Symbols of a block: their statistics, detection, and joint decisions of coupled users."""
