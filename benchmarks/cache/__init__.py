"""The cache: hit ratios, lookups, mixed load and restart, beside peers and the limit.

`report` runs in the parent and imports no contender; each measurement is a process of its own,
`measure`, which imports only what it measures.
"""
