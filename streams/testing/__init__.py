"""What tests of your own tiers, and of programs on this cache, may use; it needs pytest."""
