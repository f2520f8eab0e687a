"""Devices, precision, threads, operations on torch modules, and signals that stop a process."""
