"""Baselines on a grid of locations, by a full inverse or without one."""
