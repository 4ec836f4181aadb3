"""Pictures of shifts: where a shift acts, how two differ, how alike several are. Importing this costs nothing."""
