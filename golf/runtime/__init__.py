"""What every stage needs and no stage is about: files, reports, errors, devices, clocks, random state."""
