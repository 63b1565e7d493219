"""Programs that tests start as processes of their own: ``python -m tests.e2e.programs.NAME``."""
