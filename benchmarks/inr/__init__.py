"""Implicit neural representations: make them, classify them, edit them."""
