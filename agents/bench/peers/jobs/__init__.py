"""What runs inside a peer's own environment: the peer, msgspec, orjson, NumPy, numba and `models`, nothing else."""
