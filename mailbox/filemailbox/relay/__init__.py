"""Mail between volumes that share nothing."""
