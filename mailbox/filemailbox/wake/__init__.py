"""Wake-ups: doorbell, watch and poll. Each only means "look now"."""
