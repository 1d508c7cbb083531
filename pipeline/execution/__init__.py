"""Running work: pools of workers and (pool, shard) items, on Ray actors or in this process, behind one interface."""
