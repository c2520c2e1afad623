"""Commands with many options of their own, one a file; each imports what it does when it is called."""
