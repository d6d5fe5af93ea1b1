"""The ranking network: what in the history speaks for a candidate, crosses of all inputs, three tasks at once."""
