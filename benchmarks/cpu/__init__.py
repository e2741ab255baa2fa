"""Every method on every CPU runtime: latency, scaling, steadiness, cold start, shared teachers."""
