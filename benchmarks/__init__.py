"""Measurements that ship, one command each."""
