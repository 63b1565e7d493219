"""``mpreg queue``: `looking` changes nothing, `changing` needs the directory for itself."""
