"""The comparison of optimizers, and the command line: the top of the house."""
