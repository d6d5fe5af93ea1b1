"""The generated `synthetic` data set: MovieLens 32M's shape at any size, for what only a large log shows."""
