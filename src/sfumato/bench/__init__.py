"""The benchmark: tasks with known answers, resumable runs, tables and a report."""
