"""What every test needs before torch is imported."""

import os

# As the command line sets it: threads that wait by spinning are ten times slower beside another process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
