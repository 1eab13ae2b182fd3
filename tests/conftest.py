"""What all tests share: no network, and one thread each, since pytest-xdist runs one process a core."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
