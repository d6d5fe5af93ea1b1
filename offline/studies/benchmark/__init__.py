"""The bench: peers and ours on the same rows, asked the same requests, measured by the same code, in one table."""
