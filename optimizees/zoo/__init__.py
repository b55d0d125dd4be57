"""Populations of trained networks: how they are made and read."""
