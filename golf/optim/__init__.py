"""Muon and AdamW groups, schedules, weight averaging."""
