"""The main job: index real files with a worker that is killed again and again.

Pure parts: `sources`, `facts`, `plan`, `recount`, `report`. Shells: `worker` (the process that is
killed), `campaign` (the one that kills it), `display`, and `command`, which joins them.
"""
