"""The outer loop: networks are unrolled to learn the rule that trains them."""
