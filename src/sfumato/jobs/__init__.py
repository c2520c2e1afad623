"""Jobs: items of work, engines that run them, events and outcomes, as picklable data."""
