"""Settings of all tests. The fixtures stand in tests/support: see its modules."""

import os
import signal

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "support.waiting",
    "support.programs",
    "support.boxes",
    "support.commands",
    "support.machine",
    "support.relayed",
    "support.agents",
]

# No keys, names or volumes of the user who runs the tests take part.
for variable in ("ROOT", "AGENT", "KEY_DIR", "REGISTRY", "MIN_TRUST", "SEAL", "SIGN", "RELAY"):
    os.environ.pop(f"MAILBOX_{variable}", None)
os.environ["HOME"] = "/nonexistent"

# A shell starts background jobs with SIGINT ignored, and children inherit that. The tests send SIGINT to children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No timing is asserted, and no example database is left behind.
settings.register_profile("ours", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
