"""What an edit costs: counted calls and FLOPs, own overhead on stand-ins, and ratios of times."""
