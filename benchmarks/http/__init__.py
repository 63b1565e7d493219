"""A node over HTTP beside servers that people would run instead, each asked by its Python client.

`report` runs in the parent and imports no contender. For each measurement `load` starts a server
of its own and one or more `generate` processes, which are its clients and import only what they
measure. `watch` runs a server under strace: what is on disk when a reply leaves?
"""
