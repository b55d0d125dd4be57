"""What a rule is: state, features, directions, network, head, and the pure step."""
