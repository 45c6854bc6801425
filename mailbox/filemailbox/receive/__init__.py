"""From a claim to your code and back."""
