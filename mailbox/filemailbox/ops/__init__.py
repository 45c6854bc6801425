"""Tools for operators: inventory, cleanup, doctor, bench."""
