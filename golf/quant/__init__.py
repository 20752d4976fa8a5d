"""Hessians, GPTQ, step sizes, calibration."""
