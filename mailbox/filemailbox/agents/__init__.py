"""Mail for AI agents: how a model is shown mail, and when what it was shown counts as handled."""
