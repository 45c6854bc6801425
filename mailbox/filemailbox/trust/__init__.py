"""Proof of the sender: keys, signatures, seals, uids."""
