"""Studies: what notebooks ask, over many photographs."""
