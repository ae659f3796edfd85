"""Evaluation: tasks, statistics, results, report."""
