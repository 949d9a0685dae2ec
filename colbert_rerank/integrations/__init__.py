"""Adapters for frameworks: thin, one module each, with an optional extra of the same name.

They re-rank what a framework retrieved by the documents' ids, from a store. None is imported unless it is asked for.
"""
