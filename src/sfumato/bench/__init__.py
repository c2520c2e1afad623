"""The benchmark: tasks with known answers, runs that can be interrupted, tables and a report."""
