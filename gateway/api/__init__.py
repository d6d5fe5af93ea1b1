"""The public API: proto in, proto out."""
