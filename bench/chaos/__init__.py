"""Chaos on the real thing: two gateways under load while everything fails, then peace, an audit, invariants."""
