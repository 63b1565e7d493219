"""The main job: index real files with a worker that is killed again and again.

Each file is a message of a durable queue. Pure parts: `sources`, `facts`, `plan`, `recount`,
`report`, `closing`. Shells: `job` (the queue and the stores), `worker` (the process that is
killed), `campaign` (the one that kills it), `display`, and `command`, which joins them.
"""
