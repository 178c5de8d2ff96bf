"""Signs of the momentum, and a loss for labels that lie."""
