"""What is tried between real containers: scripts/test-containers brings the engine."""
