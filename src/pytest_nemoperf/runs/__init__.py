"""Run directories: execution of a plan, its output, stored runs; loops timed in the test process."""
