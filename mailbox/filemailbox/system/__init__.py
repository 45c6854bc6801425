"""System calls that Python lacks, and hostile files read strictly."""
