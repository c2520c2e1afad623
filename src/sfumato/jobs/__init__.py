"""One unit of work, whoever asks for it and whoever runs it: items, engines, events and outcomes, all of them plain data."""
