"""Ingest, shards, commits, manifests, plan, execution, reports and the command line: what turns labelers into a data
engine.
"""
